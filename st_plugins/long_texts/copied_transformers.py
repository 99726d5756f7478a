"""A copy of a model's transformer that can be changed without changing the model, and shares its weights."""

import copy
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer

from st_plugins.errors import UnsupportedModelError
from st_plugins.model_settings import with_settings_of
from st_plugins.modules import BidirectionalTransformer, ElasticTransformer, InterpolatedTransformer

_KINDS = (Transformer, ElasticTransformer, BidirectionalTransformer, InterpolatedTransformer)


def copied_transformer(model: SentenceTransformer, user: str) -> Any:
    """The first module anew: configuration, tokenizer and modules are copies, parameters and buffers are the model's.

    Args:
        model: Starts with a ``Transformer`` or one of ours; left as it is.
        user: Who needs it, for the message.

    Returns:
        Transformer: To put other parameters in the place of some.

    Raises:
        UnsupportedModelError: If the model starts with something else.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> copied = copied_transformer(model, "this example")
        >>> copied.tokenizer is model.tokenizer
        False
        >>> next(copied.parameters()) is next(model.parameters())
        True
    """
    first = model[0]
    if type(first) not in _KINDS or "forward" in first.__dict__:
        raise UnsupportedModelError(
            f"{user} needs a model whose first module is a Transformer with the forward of its class, got "
            f"{type(first).__name__}. Save the model, load it again, and pass that one."
        )
    tensors = (*first.parameters(), *first.buffers())
    return copy.deepcopy(first, {id(tensor): tensor for tensor in tensors})


def with_transformer(model: SentenceTransformer, transformer: Transformer) -> SentenceTransformer:
    """The model with another first module; all others are shared."""
    modules: dict[str, Any] = dict(model.named_children())
    modules[next(iter(modules))] = transformer
    return with_settings_of(model, modules)
