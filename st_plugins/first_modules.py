"""Finds the elastic transformer at the start of a model."""

from typing import Any

from sentence_transformers import SentenceTransformer
from torch import nn

from st_plugins.errors import UnsupportedModelError
from st_plugins.modules import ElasticTransformer


def unwrapped(model: nn.Module) -> SentenceTransformer:
    """The model inside the wrappers of ``torch.compile`` and distributed training.

    Raises:
        UnsupportedModelError: If there is no ``SentenceTransformer`` inside.
    """
    inner: Any = model
    while not isinstance(inner, SentenceTransformer):
        name = next((name for name in ("_orig_mod", "module") if hasattr(inner, name)), None)
        if name is None:
            raise UnsupportedModelError(
                f"The model must be a SentenceTransformer, wrapped or not, got {type(model).__name__}. "
                "Build one around it: SentenceTransformer(folder)."
            )
        inner = getattr(inner, name)
    return inner


def elastic_transformer(model: nn.Module, user: str) -> ElasticTransformer:
    """The first module of an elastic model, wrapped or not.

    Args:
        model: A ``SentenceTransformer``.
        user: Who needs it, for the message.

    Raises:
        UnsupportedModelError: If the model is not elastic.

    Example:
        >>> elastic_transformer(st_plugins.load("minilm-elastic"), "this example").depth
        6
    """
    first = unwrapped(model)[0]
    if not isinstance(first, ElasticTransformer):
        raise UnsupportedModelError(
            f"The model for {user} must be elastic, got one that starts with {type(first).__name__}. "
            "Make it elastic with st_plugins.elastic(model), and use that one from here on."
        )
    return first


def layered_module(model: nn.Module, user: str) -> Any:
    """The first module of a model that runs to several layers: an elastic transformer, or an export of one.

    Args:
        model: A ``SentenceTransformer``.
        user: Who needs it, for the message.

    Returns:
        Module: With ``depth``, ``sizes`` and ``trained_layers()``.

    Raises:
        UnsupportedModelError: If the model has one layer only.

    Example:
        >>> layered_module(st_plugins.load("minilm-elastic"), "this example").trained_layers()
        [3, 6]
    """
    first = unwrapped(model)[0]
    if all(hasattr(first, name) for name in ("depth", "sizes", "trained_layers")):
        return first
    return elastic_transformer(model, user)
