"""Rounds parts of a sentence embedding to the nearest of a few hundred centroids each. Packs nothing."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from st_plugins.counts import check_counts
from st_plugins.errors import SizeError
from st_plugins.functional import balanced_assignment
from st_plugins.weighted_module import WeightedModule


class ProductQuantization(WeightedModule):
    """Sentence embeddings in which each of M parts is one of K centroids: M log2(K) / 8 bytes a document.

    With f the embedding at unit length, R a rotation, x = R f cut into M parts x_1 ... x_M of D / M coordinates, and
    c_(m,k) the centroids of part m::

        k_m = argmin over k of || x_m - c_(m,k) ||^2
        e   = [ c_(1,k_1), ..., c_(M,k_M) ]                                (D,), not normalised

    It goes last. Compare by dot product (``similarity_fn_name="dot"``): q . e for a query that is not rounded is the
    sum over m of q_m . c_(m,k_m), which an index reads from a table (asymmetric distance computation). Its vectors are
    ordinary ones, for every evaluator; :func:`st_plugins.compression.faiss_index` makes the index, which holds codes.

    R and the centroids are random until they are fitted to embeddings: :func:`st_plugins.compression.fit_codebooks`
    does that (OPQ). Train the centroids, and the layers in front of them if they may change, from there, with
    :class:`~st_plugins.losses.QuantizationLoss`. In training mode the gradient passes the rounding as if it were not
    there, and goes to the chosen centroids too; and centroids are chosen so that all of one part are about equally full
    within the batch (:func:`~st_plugins.functional.balanced_assignment`), or a few would take all. In evaluation mode
    the nearest is chosen. R stays: its weight asks for no gradient, so that distances remain those of f.

    Args:
        embedding_dimension: D.
        parts: M, a divisor of D.
        centroids: K; 256 makes a code a byte.
        float_queries: Whether ``encode_query`` leaves its vectors unrounded, as x. Only documents take space.

    Reads: ``sentence_embedding`` (B, D), of any length.

    Writes: ``sentence_embedding`` (B, D), and where it rounds ``quantization_error`` (B,), || x - e ||^2.

    Raises:
        SizeError: If a size is not a positive integer, or ``parts`` does not divide D.
        ShapeError: If the embeddings are not D wide.

    References:
        Zhan et al., *Learning Discrete Representations via Constrained Clustering* (RepCONC),
        https://arxiv.org/abs/2110.05789. The second stage, with codes that stay, is
        :class:`~st_plugins.losses.IndexRankingLoss` (JPQ).

    Example:
        >>> module = ProductQuantization(4, parts=2, centroids=2).eval()
        >>> _ = module.codebooks.data.copy_(torch.tensor([[[0.0, 1.0], [1.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]]))
        >>> _ = module.rotate.weight.data.copy_(torch.eye(4))
        >>> features = module({"sentence_embedding": torch.tensor([[3.0, 1.0, 0.0, 0.0]])})
        >>> features["sentence_embedding"]
        tensor([[1., 0., 0., 0.]], grad_fn=...)
    """

    config_keys: ClassVar[list[str]] = ["embedding_dimension", "parts", "centroids", "float_queries"]
    forward_kwargs: ClassVar[set[str]] = {"task"}

    def __init__(
        self, embedding_dimension: int, parts: int, centroids: int = 256, *, float_queries: bool = True
    ) -> None:
        super().__init__()
        check_counts("ProductQuantization", embedding_dimension=embedding_dimension, parts=parts, centroids=centroids)
        if embedding_dimension % parts:
            raise SizeError(
                f"parts must divide the {embedding_dimension} dimensions of the embedding, got {parts}. Take one of "
                f"{[m for m in range(1, embedding_dimension + 1) if embedding_dimension % m == 0]}."
            )
        self.embedding_dimension = embedding_dimension
        self.parts = parts
        self.centroids = centroids
        self.float_queries = float_queries
        self.rotate = nn.Linear(embedding_dimension, embedding_dimension, bias=False).requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        nn.init.orthogonal_(self.rotate.weight, generator=generator)
        size = embedding_dimension // parts
        # As spread as parts of random unit vectors are.
        start = torch.randn(parts, centroids, size, generator=generator) / embedding_dimension**0.5
        self.codebooks = nn.Parameter(start)  # (M, K, D / M)

    def forward(self, features: dict[str, Any], task: str | None = None, **kwargs: Any) -> dict[str, Any]:  # the host's
        """Round each row; see the class."""
        embeddings = self.given_embeddings(features)
        rotated = self.rotate(F.normalize(embeddings.to(self.rotate.weight.dtype), dim=-1))  # (B, D)
        if self.float_queries and task == "query":
            features["sentence_embedding"] = rotated.to(embeddings.dtype)
            return features
        rounded = self._centroids_of(rotated, self.codes(rotated))
        features["quantization_error"] = (rotated - rounded).square().sum(dim=-1)
        # The value is exactly the centroids'; the gradient is theirs, and that of x as if nothing were rounded.
        features["sentence_embedding"] = (rounded + (rotated - rotated.detach())).to(embeddings.dtype)
        return features

    @torch.no_grad()
    def codes(self, rotated: Tensor) -> Tensor:
        """The centroid of each part, (B, M) integers below K: the nearest one, or in training a balanced choice.

        Args:
            rotated: (B, D), x of the formula.
        """
        cut = rotated.unflatten(-1, (self.parts, -1)).transpose(0, 1)  # (M, B, D / M)
        if self.training:
            distances = torch.cdist(cut, self.codebooks, compute_mode="donot_use_mm_for_euclid_dist").square()
            return balanced_assignment(distances).argmax(dim=-1).T
        # || x - c ||^2 without || x ||^2, which is the same for all: one product, also in ONNX.
        products = cut @ self.codebooks.transpose(1, 2)  # (M, B, K)
        halves = self.codebooks.square().sum(dim=-1)[:, None] / 2  # (M, 1, K)
        return (halves - products).argmin(dim=-1).T

    def _centroids_of(self, rotated: Tensor, codes: Tensor) -> Tensor:
        chosen = self.codebooks[torch.arange(self.parts, device=codes.device), codes]  # (B, M, D / M)
        return chosen.flatten(1)
