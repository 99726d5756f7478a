"""Finds the transformer blocks of a Hugging Face model. What is done with them is in :mod:`st_plugins.views`.

Layers are counted from 1: layer k is the output of block k, after the family's final norm where there is one. The
embedding output is not a layer.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from st_plugins.counts import is_count
from st_plugins.errors import SizeError, UnsupportedModelError

# Where pre-norm families keep the norm that follows the last block, on the parent of the block list.
_FINAL_NORM_NAMES = ("norm", "final_norm", "final_layer_norm", "ln_f")
_WEIGHT_SHARING_FAMILIES = ("albert",)
# What was found in models that still exist, and the list it was found for: every call of an encoder asks several times,
# and the answer takes a walk over all modules.
_FOUND: weakref.WeakKeyDictionary[nn.Module, tuple["BlockStack", weakref.ref[nn.Module]]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class BlockStack:
    """Where the blocks of a model are.

    Args:
        path: Attribute names from the model to the block list; for a family that applies one shared block again and
            again (ALBERT), to the module that does so.
        depth: Number of blocks, L.
        norm: Name of the final norm on the parent of the block list, or None for a post-norm family.
        is_shared: Whether one block serves every layer.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> find_blocks(model[0].model)
        BlockStack(path=('encoder', 'layer'), depth=6, norm=None, is_shared=False)
    """

    path: tuple[str, ...]
    depth: int
    norm: str | None
    is_shared: bool = False


def find_blocks(model: nn.Module) -> BlockStack:
    """Find the one stack of transformer blocks of a Hugging Face model.

    That is the ``ModuleList`` as long as the configuration's layer count which lies inside no other such list. Where
    several qualify, the class that transformers names for recording hidden states decides.

    Args:
        model: A ``PreTrainedModel`` without a task head.

    Returns:
        BlockStack: Path, depth and final norm.

    Raises:
        UnsupportedModelError: If there is no such list, or more than one.
    """
    config: Any = getattr(model, "config", None)
    depth = getattr(config, "num_hidden_layers", None)
    if not isinstance(depth, int):
        raise UnsupportedModelError(
            f"{type(model).__name__} must have a configuration with num_hidden_layers, got {type(config).__name__}. "
            "Pass the text model, for instance SentenceTransformer(...)[0].auto_model."
        )
    if model in _FOUND:
        stack, blocks = _FOUND[model]
        if stack.depth == depth and (still_there := _at(model, stack.path)) is not None and blocks() is still_there:
            return stack
    stack = _search(model, config, depth)
    _FOUND[model] = (stack, weakref.ref(follow(model, stack.path)))
    return stack


def _at(model: nn.Module, path: tuple[str, ...]) -> nn.Module | None:
    """What lies at a path, or None if it is gone."""
    try:
        return follow(model, path)
    except AttributeError:
        return None


def _search(model: nn.Module, config: Any, depth: int) -> BlockStack:
    if config.model_type in _WEIGHT_SHARING_FAMILIES:
        return _shared_stack(model, depth)
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    }
    names = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists if other != name)]
    if len(names) > 1:
        names = [name for name in names if isinstance(lists[name][0], _recorded_class(model))]
    if len(names) != 1:
        found = ", ".join(sorted(lists)) or "none"
        raise UnsupportedModelError(
            f"{type(model).__name__} must have exactly one list of {depth} transformer blocks, found: {found}. "
            "An encoder-decoder needs its encoder alone; another architecture needs support in st_plugins/blocks.py."
        )
    path = tuple(names[0].split("."))
    parent = follow(model, path[:-1])
    norm = next((name for name in _FINAL_NORM_NAMES if isinstance(getattr(parent, name, None), nn.Module)), None)
    return BlockStack(path, depth, norm)


def own_blocks(model: nn.Module, otherwise: str) -> list[nn.Module]:
    """The blocks of a model in which every layer has one of its own.

    Args:
        model: A ``PreTrainedModel`` that :func:`find_blocks` accepts.
        otherwise: For the message: what follows if it has not, and what to do.

    Returns:
        list: L modules, in order.

    Raises:
        UnsupportedModelError: If one block serves every layer, as in ALBERT.
    """
    stack = find_blocks(model)
    if stack.is_shared:
        raise UnsupportedModelError(f"{type(model).__name__} applies one block {stack.depth} times, so {otherwise}")
    return list(follow(model, stack.path))


def _shared_stack(model: nn.Module, depth: int) -> BlockStack:
    if model.config.num_hidden_groups != 1:
        raise UnsupportedModelError(
            f"{type(model).__name__} must have num_hidden_groups=1, got {model.config.num_hidden_groups}: "
            "with several groups the number of layers decides which group a layer uses."
        )
    name = next(name for name, module in model.named_modules() if hasattr(module, "albert_layer_groups"))
    return BlockStack(tuple(name.split(".")), depth, norm=None, is_shared=True)


def _recorded_class(model: nn.Module) -> tuple[type, ...]:
    recorders = getattr(model, "_can_record_outputs", None) or {}
    recorder = recorders.get("hidden_states")
    recorder = getattr(recorder, "target_class", recorder)
    return (recorder,) if isinstance(recorder, type) else (GradientCheckpointingLayer,)


def follow(module: nn.Module, path: Sequence[str]) -> nn.Module:
    """The submodule at the end of a path of attribute names."""
    for name in path:
        module = getattr(module, name)
    return module


def check_layer(layer: int, depth: int) -> None:
    """Raise :class:`~st_plugins.errors.SizeError` unless ``layer`` is an integer in [1, depth]."""
    if not is_count(layer) or layer > depth:
        raise SizeError(
            f"layer must be an integer from 1 to {depth} (the depth of this model), got {layer!r}. "
            "Layers are counted from 1; leave it out for the full depth."
        )
