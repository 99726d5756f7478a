"""Rounds sentence embeddings to a few bits per coordinate, one bit after the other. Packs nothing."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from st_plugins.bit_planes import MOST_BITS
from st_plugins.counts import check_counts
from st_plugins.errors import SizeError
from st_plugins.weighted_module import WeightedModule


class ResidualBinarization(WeightedModule):
    """Sentence embeddings of ``bits`` bits a coordinate: a sign, then the sign of what it left over, and so on.

    With f the embedding at unit length, W, U_i (D to m) and V_i (m to D) affine maps, P = ``bits``::

        b_0     = sign(W f)                                              (m,), sign(0) = +1
        b_(i+1) = b_i + 2^-(i+1) sign(U_i (f - V_i b_i / ||V_i b_i||))     for i = 0 .. P - 2
        e       = b_(P-1) / ||b_(P-1)||                                  (m,)

    It goes last, where it is its own ``Normalize``. What it writes are ordinary vectors, so evaluators and searches
    need to know nothing of it; they are odd integers times one number, and
    :class:`~st_plugins.compression.BitPlanes` packs them into P * m / 8 bytes and gives the same cosines by counting
    bits. Use it as it is: W = U_i = V_i^T is a random rotation, each bit then halves the interval the coordinate may be
    in, and nothing has to be trained. Or train it, at little cost because the encoder may stay frozen, by any loss of
    sentence-transformers; few pairs of one kind of text need not make it better on another. The gradient
    of a sign is 1 where |sqrt(m) x| <= 1, and 0 elsewhere.

    Args:
        embedding_dimension: D.
        code_dimension: m; None for D. With more than D, bits after the first help only once they are trained.
        bits: P, from 1 to 8. One is ordinary binary quantization, behind a rotation.
        float_queries: Whether ``encode_query`` leaves its vectors unrounded, as W f / ||W f||. Only documents take
            space, so the search is better for it and the index no larger; it cannot count bits.

    Reads: ``sentence_embedding`` (B, D), of any length.

    Writes: ``sentence_embedding`` (B, m), of unit length.

    Raises:
        SizeError: If a dimension is not a positive integer, or ``bits`` not an integer from 1 to 8.
        ShapeError: If the embeddings are not D wide.

    References:
        BEBR, *Binary Embedding-based Retrieval at Tencent*, https://arxiv.org/abs/2302.08714, section 3.1. There the
        maps are small networks that start at random; here they are affine and start as a rotation.

    Example:
        >>> features = {"sentence_embedding": torch.tensor([[3.0, 4.0, 0.0, 0.0]])}
        >>> code = ResidualBinarization(4, bits=2)(features)["sentence_embedding"]
        >>> (code / code.abs().min()).abs().unique().round().detach()
        tensor([1., 3.])
    """

    config_keys: ClassVar[list[str]] = ["embedding_dimension", "code_dimension", "bits", "float_queries"]
    forward_kwargs: ClassVar[set[str]] = {"task"}

    def __init__(
        self, embedding_dimension: int, code_dimension: int | None = None, *, bits: int = 2, float_queries: bool = False
    ) -> None:
        super().__init__()
        code_dimension = embedding_dimension if code_dimension is None else code_dimension
        check_counts(
            "ResidualBinarization", embedding_dimension=embedding_dimension, code_dimension=code_dimension, bits=bits
        )
        if bits > MOST_BITS:
            raise SizeError(f"ResidualBinarization needs bits from 1 to {MOST_BITS}, got {bits}.")
        self.embedding_dimension = embedding_dimension
        self.code_dimension = code_dimension
        self.bits = bits
        self.float_queries = float_queries
        self.binarize = nn.Linear(embedding_dimension, code_dimension)
        self.reconstruct = nn.ModuleList(nn.Linear(code_dimension, embedding_dimension) for _ in range(bits - 1))
        self.residual = nn.ModuleList(nn.Linear(embedding_dimension, code_dimension) for _ in range(bits - 1))
        rotation = _rotation(code_dimension, embedding_dimension)
        for layer in (self.binarize, *self.residual):
            _set(layer, rotation)
        for layer in self.reconstruct:
            _set(layer, rotation.T)

    def get_embedding_dimension(self) -> int:
        """``code_dimension``."""
        return self.code_dimension

    def forward(self, features: dict[str, Any], task: str | None = None, **kwargs: Any) -> dict[str, Any]:  # the host's
        """Round each row; see the class."""
        embeddings = self.given_embeddings(features)
        unit = F.normalize(embeddings.to(self.binarize.weight.dtype), dim=-1)
        is_float = self.float_queries and task == "query"
        vectors = self.binarize(unit) if is_float else self._codes(unit)
        features["sentence_embedding"] = F.normalize(vectors, dim=-1).to(embeddings.dtype)
        return features

    def _codes(self, unit: Tensor) -> Tensor:
        """B of the last step, (B, m): odd multiples of 2^-(P - 1)."""
        code = _sign(self.binarize(unit))
        for step in range(1, self.bits):
            code = code + 2.0**-step * _sign(self.left_over(unit, code, step))
        return code

    def left_over(self, unit: Tensor, code: Tensor, step: int) -> Tensor:
        """What a code leaves over, in its own space: the numbers (B, m) whose signs are the next bit.

        Args:
            unit: f, (B, D), of unit length.
            code: b_(i), (B, m), after so many bits.
            step: i + 1, from 1 to P - 1.
        """
        found = F.normalize(self.reconstruct[step - 1](code), dim=-1)  # (B, D)
        return self.residual[step - 1](unit - found)


def _sign(values: Tensor) -> Tensor:
    """+1 and -1, forward; the gradient of sqrt(m) x clipped to [-1, 1]."""
    signs = torch.where(values >= 0, 1.0, -1.0).to(values)
    if not values.requires_grad:
        return signs
    window = (values.shape[-1] ** 0.5 * values).clamp(-1, 1)
    return signs + (window - window.detach())  # exactly the signs


def _set(layer: nn.Linear, weight: Tensor) -> None:
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.zero_()


def _rotation(rows: int, columns: int) -> Tensor:
    """Random, the same every time, with orthonormal rows or columns, whichever are fewer."""
    weight = torch.empty(rows, columns)
    return nn.init.orthogonal_(weight, generator=torch.Generator().manual_seed(0))
