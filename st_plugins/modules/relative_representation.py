"""Describes a sentence embedding by its cosines with anchors. Aligns nothing, and fits nothing."""

from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from st_plugins.counts import check_counts
from st_plugins.errors import ShapeError
from st_plugins.finite_vectors import check_finite
from st_plugins.weighted_module import WeightedModule


class RelativeRepresentation(WeightedModule):
    """Cosines of the embedding with A anchors, the embeddings of texts that you choose.

    With e (D,) the embedding and a_1 ... a_A the anchors::

        r_j = cos(e - c, a_j - c)        (A,), c = 0, or the mean of the anchors with ``center``

    Two models that embed the same anchor texts, in the same order, give vectors that can be compared with one another,
    whatever their widths, and nothing is trained. They agree exactly where one space is a rotation, a reflection or a
    multiple of the other; with ``center`` also where it is shifted. Real models differ in more than that: where both
    have embedded a thousand texts or more, :func:`st_plugins.adapt_to_index` knows more of the difference and finds
    more. Anchor j itself has r_j = 1.

    It goes behind the last module of a model. Its vectors have no unit length; compare them by cosine, or put a
    ``Normalize`` behind. It is mostly built by :meth:`from_anchors`; by hand its anchors are random directions, the
    same ones every time.

    Args:
        embedding_dimension: D.
        num_anchors: A, the width of what comes out; some hundred.
        center: Whether to subtract the mean of the anchors from everything.

    Reads: ``sentence_embedding`` (B, D), of any length.

    Writes: ``sentence_embedding`` (B, A), coordinates in [-1, 1].

    Raises:
        SizeError: If a number is not a positive integer.
        ShapeError: If the embeddings are not D wide.

    References:
        Moschella et al., *Relative representations enable zero-shot latent space communication*,
        https://arxiv.org/abs/2209.15430. There anchors are not centered.

    Example:
        >>> relative = RelativeRepresentation.from_anchors(torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, -2.0]]))
        >>> relative({"sentence_embedding": torch.tensor([[5.0, 0.0]])})["sentence_embedding"]
        tensor([[1.0000, 0.6000, 0.0000]])
    """

    config_keys: ClassVar[list[str]] = ["embedding_dimension", "num_anchors", "center"]
    anchors: Tensor  # (A, D)

    def __init__(self, embedding_dimension: int, num_anchors: int, *, center: bool = False) -> None:
        super().__init__()
        check_counts("RelativeRepresentation", embedding_dimension=embedding_dimension, num_anchors=num_anchors)
        self.embedding_dimension = embedding_dimension
        self.num_anchors = num_anchors
        self.center = center
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("anchors", torch.randn(num_anchors, embedding_dimension, generator=generator))

    @classmethod
    def from_anchors(cls, anchors: Tensor, *, center: bool = False) -> Self:
        """One with these anchors.

        Args:
            anchors: (A, D), for instance ``model.encode(texts, convert_to_tensor=True)``. The order is part of what
                comes out.
            center: See the class.

        Returns:
            RelativeRepresentation: Keeps a copy of them.

        Raises:
            ShapeError: If there is not one row for each anchor.
            NonFiniteError: If one holds NaN or infinity.
        """
        if anchors.ndim != 2 or 0 in anchors.shape:
            raise ShapeError(
                f"anchors must be of shape (anchors, embedding dimension), got {tuple(anchors.shape)}. "
                "Embed a list of texts."
            )
        check_finite({"sentence_embedding": anchors})
        relative = cls(anchors.shape[1], anchors.shape[0], center=center)
        relative.anchors = anchors.detach().clone(memory_format=torch.contiguous_format)
        return relative

    def get_embedding_dimension(self) -> int:
        """``num_anchors``."""
        return self.num_anchors

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Compare every row with every anchor; see the class."""
        embeddings = self.given_embeddings(features)
        vectors, anchors = embeddings.to(self.anchors.dtype), self.anchors
        if self.center:
            mean = anchors.mean(dim=0)  # (D,)
            vectors, anchors = vectors - mean, anchors - mean
        cosines = F.normalize(vectors, dim=-1) @ F.normalize(anchors, dim=-1).T  # (B, A)
        features["sentence_embedding"] = cosines.to(embeddings.dtype)
        return features
