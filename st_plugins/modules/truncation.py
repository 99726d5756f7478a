"""Cuts sentence embeddings to their first coordinates and keeps them unit vectors."""

from typing import Any, ClassVar

from sentence_transformers.sentence_transformer.modules import Module
from torch import Tensor

from st_plugins.counts import is_count
from st_plugins.errors import ShapeError, SizeError, UntrainedSizeError
from st_plugins.finite_vectors import check_finite
from st_plugins.functional import truncate


class Truncation(Module):
    """First ``dim`` coordinates of the sentence embedding, L2-normalised after the cut.

    It goes last. With ``dim`` it cuts every vector. Without, it leaves full vectors as they are and looks after
    ``model.encode(texts, truncate_dim=d)``: sentence-transformers cuts behind the last module and does not normalise,
    so that dot products of the result are wrong; behind this module the cut vectors have unit length, and dims the
    model was not trained for are refused::

        e' = e[:d] / ||e[:d]||          (B, d)

    In evaluation mode it lets no NaN and no infinity pass, whose cosine with anything is NaN and ranks anywhere.

    Args:
        dim: Coordinates to keep, >= 1, or None to leave the choice to each call.

    Reads: ``sentence_embedding`` (B, D), and ``trained_dims`` where :class:`~st_plugins.modules.ElasticTransformer`
    wrote it.

    Writes: ``sentence_embedding`` (B, dim), or (B, D) unchanged.

    Raises:
        SizeError: If ``dim`` is not a positive integer.
        ShapeError: If the embedding is narrower than ``dim``.
        NonFiniteError: If a vector is not finite, see :func:`~st_plugins.finite_vectors.check_finite`.
        UntrainedSizeError: If ``truncate_dim`` was not trained at the layer in use. Raised by the first batch.

    References:
        Matryoshka Representation Learning, https://arxiv.org/abs/2205.13147, section 3.

    Example:
        >>> features = Truncation(2)({"sentence_embedding": torch.tensor([[3.0, 4.0, 12.0]])})
        >>> features["sentence_embedding"]
        tensor([[0.6000, 0.8000]])
    """

    config_keys: ClassVar[list[str]] = ["dim"]

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        if dim is not None and not is_count(dim):
            raise SizeError(f"Truncation needs a positive integer dim or None, got {dim!r}.")
        self.dim = dim

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Cut if ``dim`` is set; see the class."""
        if not self.training:
            check_finite(features)
        embeddings = features["sentence_embedding"]
        if self.dim is None:
            return _UnitFeatures(features)
        if embeddings.shape[-1] < self.dim:
            raise ShapeError(
                f"Truncation(dim={self.dim}) needs a sentence_embedding of shape (batch, {self.dim} or more), "
                f"got {tuple(embeddings.shape)}. Build it with at most dim=model.get_embedding_dimension()."
            )
        features["sentence_embedding"] = truncate(embeddings, self.dim)
        return features

    def get_embedding_dimension(self) -> int | None:
        """``dim``; None says that the module before decides."""
        return self.dim

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write ``config.json``; there are no weights."""
        self.save_config(output_path)


class _UnitFeatures(dict[str, Any]):
    """Features whose ``sentence_embedding`` is normalised whenever a narrower one replaces it.

    ``SentenceTransformer.encode`` truncates by assigning to this key after the last module has run. This is the only
    place where a module can see that cut, and it needs no state and no patch.
    """

    def __setitem__(self, key: str, value: Any) -> None:
        before = self.get(key)
        if key == "sentence_embedding" and isinstance(before, Tensor) and value.shape[-1] < before.shape[-1]:
            self._check_trained(value.shape[-1], before.shape[-1])
            value = truncate(value, value.shape[-1])
        super().__setitem__(key, value)

    def _check_trained(self, dim: int, full_dim: int) -> None:
        if dim < 1:
            raise SizeError(f"truncate_dim must be an integer from 1 to {full_dim}, it left {dim} coordinates.")
        trained = self.get("trained_dims")
        if trained is not None and dim not in trained:
            allowed = sorted({*trained, full_dim})
            raise UntrainedSizeError(
                f"truncate_dim must be a dim the model was trained for at this layer, {allowed}, got {dim}. Train it "
                "with st_plugins.losses.ElasticLoss; if it was trained elsewhere, say so: st_plugins.elastic(model, "
                "sizes=[(layer, dim), ...]); or pass allow_untrained=True to cut all the same."
            )
