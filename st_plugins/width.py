"""The width of a pipeline's sentence embedding, before any call cuts it, and the dims it may be cut to."""

from collections.abc import Iterable

from torch import nn

from st_plugins.counts import is_count
from st_plugins.errors import SizeError, UnsupportedModelError


def embedding_width(modules: Iterable[nn.Module]) -> int:
    """Coordinates of the sentence embedding that these modules give.

    Unlike ``SentenceTransformer.get_embedding_dimension`` it does not count the model's default ``truncate_dim``, which
    is cut off behind the last module.

    Args:
        modules: The modules of a model, in order.

    Returns:
        int: What the last module that says so says.

    Raises:
        UnsupportedModelError: If none says so.

    Example:
        >>> embedding_width(SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2").children())
        384
    """
    modules = list(modules)
    dims = [module.get_embedding_dimension() for module in modules if hasattr(module, "get_embedding_dimension")]
    known = [dim for dim in dims if dim is not None]
    if not known:
        raise UnsupportedModelError(
            "One module must say how wide its embeddings are, by get_embedding_dimension, got "
            f"{', '.join(type(module).__name__ for module in modules)}."
        )
    return known[-1]


def check_dim(dim: int, width: int) -> None:
    """Raise :class:`~st_plugins.errors.SizeError` unless ``dim`` is an integer in [1, width]."""
    if not is_count(dim) or dim > width:
        raise SizeError(f"dim must be an integer from 1 to {width} (the embedding dimension), got {dim!r}.")
