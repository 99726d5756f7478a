"""Gives every coordinate of a sentence embedding the same middle and the same spread, and takes them back."""

from statistics import NormalDist
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from st_plugins.counts import check_counts
from st_plugins.errors import ShapeError, SizeError
from st_plugins.finite_vectors import check_finite
from st_plugins.weighted_module import WeightedModule

# Of a normal distribution the quartiles are so many standard deviations apart.
_QUARTILES_APART = 2 * NormalDist().inv_cdf(0.75)


class RobustNormalizer(WeightedModule):
    """Each coordinate without its median, in units of its spread, both measured on embeddings of yours.

    With q_p the quantile p of coordinate i over the embeddings it was fitted to, IQR_i = q_.75 - q_.25::

        z_i = (e_i - median_i) / s_i        s_i = IQR_i / 1.349, or 1 where IQR_i = 0

    1.349 makes s the standard deviation of normal coordinates. Unlike mean and deviation, median and quartiles do not
    care about the few coordinates of huge values that language models have. What comes out has no unit length; a
    ``Normalize`` behind it makes cosines of dot products. It does not turn the space: coordinates that go together go
    on doing so. :meth:`inverse` undoes it.

    It goes behind the last module of a model and is built by :meth:`fitted`. By hand it changes nothing, until weights
    are loaded.

    Args:
        embedding_dimension: D.
        clip_quantile: p, in (0, 0.5): z is kept within its own quantiles p and 1 - p, so that outliers of other texts
            are no larger than those it has seen. None clips nothing. What is clipped cannot be undone.

    Reads: ``sentence_embedding`` (B, D).

    Writes: ``sentence_embedding`` (B, D).

    Raises:
        SizeError: If D is not a positive integer, or ``clip_quantile`` not in (0, 0.5).
        ShapeError: If the embeddings are not D wide.

    References:
        The normalizer of *Large Concept Models*, https://arxiv.org/abs/2412.08821. Its public code gives
        quartiles as 0.25 and 0.75 to scikit-learn's ``RobustScaler``, which takes percents, and so divides by the
        spread of half a percent of the texts; here it is that of half of them, as the paper says.

    Example:
        >>> normalizer = RobustNormalizer.fitted(torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0]]))
        >>> features = normalizer({"sentence_embedding": torch.tensor([[2.0], [4.0]])})
        >>> features["sentence_embedding"]
        tensor([[0.0000],
                [1.3490]])
        >>> normalizer.inverse(features["sentence_embedding"])
        tensor([[2.],
                [4.]])
    """

    config_keys: ClassVar[list[str]] = ["embedding_dimension", "clip_quantile"]
    median: Tensor  # (D,)
    scale: Tensor  # (D,)
    low: Tensor  # (D,), of z; read where something is clipped
    high: Tensor  # (D,)

    def __init__(self, embedding_dimension: int, *, clip_quantile: float | None = None) -> None:
        super().__init__()
        check_counts("RobustNormalizer", embedding_dimension=embedding_dimension)
        if clip_quantile is not None and not 0 < clip_quantile < 0.5:
            raise SizeError(
                f"RobustNormalizer needs a clip_quantile between 0 and 0.5, or None, got {clip_quantile!r}. "
                "1e-4 clips one number in five thousand."
            )
        self.embedding_dimension = embedding_dimension
        self.clip_quantile = clip_quantile
        self.register_buffer("median", torch.zeros(embedding_dimension))
        self.register_buffer("scale", torch.ones(embedding_dimension))
        if clip_quantile is not None:
            self.register_buffer("low", torch.full((embedding_dimension,), -torch.inf))
            self.register_buffer("high", torch.full((embedding_dimension,), torch.inf))

    @classmethod
    def fitted(cls, embeddings: Tensor, *, clip_quantile: float | None = None) -> Self:
        """One that fits these embeddings.

        Args:
            embeddings: (n, D), for instance ``model.encode(texts, convert_to_tensor=True)`` of some thousand texts.
            clip_quantile: See the class.

        Returns:
            RobustNormalizer: With numbers of the embeddings' type, float32 at least.

        Raises:
            ShapeError: If there is no row, or not one for each text.
            NonFiniteError: If one holds NaN or infinity.
        """
        if embeddings.ndim != 2 or 0 in embeddings.shape:
            raise ShapeError(
                f"embeddings must be of shape (texts, embedding dimension), got {tuple(embeddings.shape)}. "
                "Embed a list of texts."
            )
        check_finite({"sentence_embedding": embeddings})
        normalizer = cls(embeddings.shape[1], clip_quantile=clip_quantile)
        ordered = embeddings.detach().T.double().contiguous().sort(dim=1).values  # (D, n)
        median, spread = _quantile(ordered, 0.5), _quantile(ordered, 0.75) - _quantile(ordered, 0.25)
        scale = torch.where(spread > 0, spread / _QUARTILES_APART, 1.0)
        numbers = {"median": median, "scale": scale}
        if clip_quantile is not None:
            numbers["low"] = (_quantile(ordered, clip_quantile) - median) / scale
            numbers["high"] = (_quantile(ordered, 1 - clip_quantile) - median) / scale
        dtype = torch.promote_types(embeddings.dtype, torch.float32)
        for name, tensor in numbers.items():
            setattr(normalizer, name, tensor.to(dtype))
        return normalizer

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Normalize every coordinate; see the class."""
        embeddings = self.given_embeddings(features)
        normalized = (embeddings.to(self.scale.dtype) - self.median) / self.scale
        if self.clip_quantile is not None:
            normalized = torch.minimum(torch.maximum(normalized, self.low), self.high)
        features["sentence_embedding"] = normalized.to(embeddings.dtype)
        return features

    def inverse(self, embeddings: Tensor) -> Tensor:
        """The embeddings (..., D) whose normalized ones these are; of what was clipped, the bound."""
        return (embeddings.to(self.scale.dtype) * self.scale + self.median).to(embeddings.dtype)


def _quantile(ordered: Tensor, share: float) -> Tensor:
    """Of each row of (D, n), by a line between neighbours. ``torch.quantile`` takes 16 million numbers only."""
    last = ordered.shape[1] - 1
    below = int(share * last)
    return torch.lerp(ordered[:, below], ordered[:, min(below + 1, last)], share * last - below)
