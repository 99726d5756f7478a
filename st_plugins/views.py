"""Views: the same Hugging Face model with its first k blocks only.

A view is an ordinary model of the same class: shallow copies along the path to the block list, the list cut, a
configuration of its own. It shares every parameter with the model it came from, holds no state of a call, and
``save_pretrained`` of it writes exactly what it computes. Nothing is patched, and no hook of ours is installed.
"""

import copy
from collections.abc import Iterable, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from st_plugins.blocks import BlockStack, check_layer, find_blocks, follow, own_blocks
from st_plugins.errors import UnsupportedModelError
from st_plugins.modes import evaluating

try:
    from transformers.utils.output_capturing import maybe_install_capturing_hooks as _maybe_install_capturing_hooks
except ImportError:  # transformers 4 records layers without lasting hooks
    _maybe_install_capturing_hooks = None

# Configuration entries that hold one value per block.
_PER_BLOCK_ENTRIES = ("layer_types", "mlp_layer_types", "no_rope_layers")


def view(model: nn.Module, layer: int) -> nn.Module:
    """The same model with its first ``layer`` blocks only, sharing all parameters.

    Cheap enough to make for every call, and safe to use from several threads at once.

    Args:
        model: A ``PreTrainedModel`` that :func:`find_blocks` accepts.
        layer: Blocks to keep, in [1, L].

    Returns:
        nn.Module: A model of the same class whose configuration says ``layer`` blocks.

    Raises:
        SizeError: If the layer does not exist.
        UnsupportedModelError: See :func:`find_blocks`.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> half = view(model[0].model, 3)
        >>> half.config.num_hidden_layers, model[0].model.config.num_hidden_layers
        (3, 6)
    """
    stack = find_blocks(model)
    check_layer(layer, stack.depth)
    _install_host_hooks(model)
    if stack.is_shared:
        blocks = follow(model, stack.path)  # runs its one block as often as the configuration says
    else:
        blocks = follow(model, stack.path)[:layer]
    return _replace(model, stack.path, blocks, layer, {})


def independent_view(model: nn.Module, layer: int) -> nn.Module:
    """A copy of a view that shares nothing with the model, for keeping.

    The blocks of a view still refer to the configuration of the full model; here they refer to the cut one, so that
    ``set_attn_implementation`` and the like reach them.

    Args:
        model: A ``PreTrainedModel`` that :func:`find_blocks` accepts.
        layer: Blocks to keep, in [1, L].

    Returns:
        nn.Module: A model of the same class.

    Raises:
        SizeError, UnsupportedModelError: As :func:`view`.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> half = independent_view(model[0].model, 3)
        >>> half.encoder.config is half.config
        True
    """
    path = find_blocks(model).path
    shallow = view(model, layer)
    memo: dict[int, Any] = {}
    for length in range(len(path)):
        original, cut = follow(model, path[:length]), follow(shallow, path[:length])
        if "config" in original.__dict__:
            memo[id(original.config)] = copy.deepcopy(cut.config, memo)
    return copy.deepcopy(shallow, memo)


def recording_view(model: nn.Module) -> tuple[nn.Module, list[Tensor]]:
    """A view of full depth that keeps every layer of the next forward pass, with gradients.

    Unlike ``output_hidden_states=True`` it leaves no trace in the configuration. Together with :func:`normed_layers`
    what a loss trains at layer k is what ``view(model, k)`` serves.

    Args:
        model: A ``PreTrainedModel`` that :func:`find_blocks` accepts, ALBERT excepted.

    Returns:
        tuple: The view, and a list that its forward pass fills with L tensors (B, T, D), raw block outputs; give
        them to :func:`normed_layers`.

    Raises:
        UnsupportedModelError: If one block serves every layer.
    """
    advice = "its layers cannot be read apart. Train it at full depth; static layers work."
    states: list[Tensor] = []
    return with_blocks(model, [_Recorder(block, states) for block in own_blocks(model, advice)]), states


def with_blocks(model: nn.Module, blocks: Iterable[nn.Module]) -> nn.Module:
    """A view with other blocks in place of the model's.

    Args:
        model: A ``PreTrainedModel`` that :func:`find_blocks` accepts, ALBERT excepted.
        blocks: Called as the model's blocks are; as many as the view is deep.

    Returns:
        nn.Module: A model of the same class, which shares all else with this one.
    """
    _install_host_hooks(model)
    others = nn.ModuleList(blocks)
    return _replace(model, find_blocks(model).path, others, len(others), {})


def normed_layers(model: nn.Module, states: Sequence[Tensor], stack: BlockStack | None = None) -> tuple[Tensor, ...]:
    """Apply the family's final norm to raw block outputs.

    Args:
        model: The model the outputs came from.
        states: L tensors (B, T, D).
        stack: Its blocks, if they have been found already.

    Returns:
        tuple[Tensor, ...]: L tensors (B, T, D); entry k - 1 is layer k.
    """
    stack = stack or find_blocks(model)
    if stack.norm is None:
        return tuple(states)
    norm = getattr(follow(model, stack.path[:-1]), stack.norm)
    return tuple(norm(state) for state in states)


@torch.no_grad()
def check_views(model: nn.Module, input_ids: Tensor) -> None:
    """Prove on a few tokens that views of this architecture compute its layers.

    Args:
        model: A ``PreTrainedModel``.
        input_ids: (1, T) token ids.

    Raises:
        UnsupportedModelError: If the first layer of the model and a one-block view disagree, or the last layer and the
            model itself. That happens when something follows the blocks that this package does not know.
    """
    stack = find_blocks(model)
    if stack.is_shared:
        return
    recording, states = recording_view(model)
    with evaluating(recording):
        full = recording(input_ids=input_ids)[0]
        shallow = view(model, 1).eval()(input_ids=input_ids)[0]
    layers = normed_layers(model, states)
    tolerance = 1e-4 if full.dtype in (torch.float32, torch.float64) else 5e-2
    for name, expected, found in (("first", layers[0], shallow), ("last", layers[-1], full)):
        difference = float((expected - found).abs().max() / found.abs().max().clamp_min(1e-9))
        if not difference <= tolerance:
            raise UnsupportedModelError(
                f"{type(model).__name__} does not compute its {name} layer as its blocks followed by "
                f"{stack.norm or 'nothing'} (relative difference {difference:.1e}). "
                "This architecture needs support in st_plugins/blocks.py."
            )


class StandIn(nn.Module):
    """Stands in for one block, and answers every question about it."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("block"), name)


class _Recorder(StandIn):
    """Calls its block and keeps the output."""

    def __init__(self, block: nn.Module, states: list[Tensor]) -> None:
        super().__init__(block)
        self.states = states

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # whatever the family passes to its blocks
        output = self.block(*args, **kwargs)
        self.states.append(output[0] if isinstance(output, tuple) else output)
        return output


def _install_host_hooks(model: nn.Module) -> None:
    """Let transformers install its hooks on the model before a copy of it exists.

    It does so once, on the first ``output_hidden_states=True``, and notes it on the model. Blocks are shared: were the
    hooks installed through a view, the model would install them again and report every layer twice.
    """
    if _maybe_install_capturing_hooks is not None:
        _maybe_install_capturing_hooks(model)


def shallow_copy(module: nn.Module, **children: nn.Module) -> nn.Module:
    """A module of the same class and state, with some children replaced; the original is left as it is.

    Parameters and all other children are shared.

    Args:
        module: The module to copy.
        **children: Name of a child and its replacement.

    Returns:
        nn.Module: The copy.
    """
    clone = object.__new__(type(module))
    clone.__dict__.update(module.__dict__)
    clone.__dict__["_modules"] = {**module._modules, **children}
    forward = module.__dict__.get("forward")
    if getattr(forward, "__self__", None) is module:  # left by accelerate's autocast and by losses that replace it
        clone.__dict__["forward"] = MethodType(forward.__func__, clone)
    return clone


def _replace(
    module: nn.Module, path: Sequence[str], blocks: nn.Module, layer: int, configs: dict[int, Any]
) -> nn.Module:
    """Copy the modules along ``path`` and put ``blocks`` at its end; modules that share a configuration still do."""
    if len(path) > 1:
        child = _replace(getattr(module, path[0]), path[1:], blocks, layer, configs)
    elif isinstance(blocks, nn.ModuleList):
        child = blocks
    else:
        child = _with_cut_config(shallow_copy(blocks), layer, configs)
    return _with_cut_config(shallow_copy(module, **{path[0]: child}), layer, configs)


def _with_cut_config(clone: nn.Module, layer: int, configs: dict[int, Any]) -> nn.Module:
    config: Any = clone.__dict__.get("config")
    if config is not None:
        if id(config) not in configs:
            configs[id(config)] = cut_config(config, layer)
        clone.config = configs[id(config)]
    return clone


def cut_config(config: Any, layer: int) -> Any:
    """A copy of a Hugging Face configuration that says ``layer`` blocks.

    Args:
        config: A ``PreTrainedConfig``; left as it is.
        layer: The number of blocks.

    Returns:
        The copy, with the entries that hold one value per block cut as well.
    """
    cut = copy.copy(config)
    cut.num_hidden_layers = layer
    for name in _PER_BLOCK_ENTRIES:
        entries = getattr(cut, name, None)
        if isinstance(entries, list):
            setattr(cut, name, entries[:layer])
    return cut
