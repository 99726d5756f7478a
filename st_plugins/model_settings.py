"""Puts other modules into a model and keeps its settings."""

import copy
from collections import OrderedDict

from sentence_transformers import SentenceTransformer
from torch import nn


def with_settings_of(model: SentenceTransformer, modules: dict[str, nn.Module]) -> SentenceTransformer:
    """A model of these modules with the settings of another.

    Args:
        model: Whose prompts, similarity, truncation, device and mode are taken; left as it is.
        modules: By name, in order.

    Returns:
        SentenceTransformer: It holds the modules themselves, no copies.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2", prompts={"query": "find: "})
        >>> without_normalize = dict(list(model.named_children())[:2])
        >>> with_settings_of(model, without_normalize).prompts["query"]
        'find: '
    """
    result = SentenceTransformer(
        modules=OrderedDict(modules),
        device=str(model.device),
        prompts=dict(model.prompts),
        default_prompt_name=model.default_prompt_name,
        similarity_fn_name=model.similarity_fn_name,
        truncate_dim=model.truncate_dim,
    )
    result.module_kwargs = copy.deepcopy(model.module_kwargs)
    return result.train(model.training)
