"""Puts other modules into a model and keeps its settings."""

import copy
from collections import OrderedDict
from collections.abc import Collection
from itertools import count

from sentence_transformers import SentenceTransformer
from torch import nn


def with_settings_of(model: SentenceTransformer, modules: dict[str, nn.Module]) -> SentenceTransformer:
    """A model of these modules with the settings of another.

    Args:
        model: Whose prompts, similarity, truncation, device and mode are taken; left as it is, and so is the mode of
            each of its modules that goes on.
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
    result.training = model.training
    if not model.training:
        known = {*model.modules()}
        for module in result.modules():
            if module not in known:
                module.training = False
    return result


def free_name(names: Collection[str]) -> str:
    """A name for one module more: its place, or the next number that no module has for a name.

    Args:
        names: Those of the modules there are.

    Example:
        >>> free_name(["0", "1"]), free_name(["0", "1", "3"])
        ('2', '4')
    """
    return next(name for name in map(str, count(len(names))) if name not in names)
