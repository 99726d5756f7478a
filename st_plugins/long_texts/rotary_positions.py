"""Rotary positions (RoPE) for longer texts, by the configuration alone."""

import copy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from st_plugins.errors import UnsupportedModelError

# By how much LongEmbed multiplies the base where texts become 1, 2, 4, 8 times as long; between them, straight lines.
_BASES = ((1.0, 1.0), (2.0, 3.0), (4.0, 5.0), (8.0, 10.0))


def ntk_base(factor: float) -> float:
    """What the base of the frequencies is multiplied with for texts ``factor`` times as long.

    References:
        LongEmbed, https://arxiv.org/abs/2404.12096: 3, 5 and 10 for 2, 4 and 8; beyond, in proportion.

    Example:
        >>> ntk_base(2), ntk_base(3), ntk_base(16)
        (3.0, 4.0, 20.0)
    """
    for (low, start), (high, end) in pairwise(_BASES):
        if factor <= high:
            return start + (end - start) * (factor - low) / (high - low)
    return factor * _BASES[-1][1] / _BASES[-1][0]


def check_rotary(network: Any) -> None:
    """Refuse a network without rotary positions as they were trained.

    Raises:
        UnsupportedModelError: If its positions are of another kind, or were scaled before.
    """
    parameters = getattr(network.config, "rope_parameters", None)
    if not any(map(_frequencies, network.modules())) or not parameters:
        raise UnsupportedModelError(
            "The model must have a learned table of positions, or rotary ones that its configuration describes by "
            f"rope_parameters, as transformers 5 does; got {type(network).__name__}. Other kinds know no length."
        )
    for entry in _entries(parameters):
        if entry.get("rope_type", "default") != "default":
            raise UnsupportedModelError(
                f"The rotary positions of {type(network).__name__} must be as they were trained, rope_type='default', "
                f"got {entry['rope_type']!r}. Set max_seq_length if it reads longer texts already."
            )


def scale_rotary(network: Any, factor: float, method: str) -> None:
    """Change the frequencies of a network and its configuration. Layers with a sliding window keep theirs.

    Args:
        network: What :func:`check_rotary` accepts; it is changed.
        factor: By how much longer texts become.
        method: ``"interpolate"`` divides all frequencies by the factor (``rope_type="linear"``), ``"ntk"`` multiplies
            their base with :func:`ntk_base`.

    Raises:
        UnsupportedModelError: If the network does not follow its configuration.
    """
    config: Any = network.config
    changed = copy.deepcopy(config.rope_parameters)
    for entry in _entries(changed):
        if method == "ntk":
            entry["rope_theta"] *= ntk_base(factor)
        else:
            entry.update(rope_type="linear", factor=float(factor))
    config.rope_parameters = changed
    for place in filter(_frequencies, network.modules()):
        _rebuild(network, place, config, factor, method)


def _entries(parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of the layers that see whole texts: one for all, or one for each kind of layer."""
    if "rope_theta" in parameters:
        return [parameters]
    return [entry for kind, entry in parameters.items() if isinstance(entry, dict) and "sliding" not in kind]


def _frequencies(module: nn.Module) -> dict[str, Tensor]:
    buffers = dict(module.named_buffers(recurse=False))
    return {
        name: value
        for name, value in buffers.items()
        if name.endswith("inv_freq") and not name.endswith("original_inv_freq")
    }


def _rebuild(network: nn.Module, place: nn.Module, config: Any, factor: float, method: str) -> None:
    """Let the class of the rotary module compute its frequencies again, and look at what came out."""
    rebuilt: Any = type(place)(config).to(next(network.parameters()).device)
    for name, old in _frequencies(place).items():
        new = _frequencies(rebuilt)[name]
        steps = torch.arange(len(old), device=old.device) / len(old)
        tolerance = 1e-4 if old.dtype == torch.float32 else 1e-2  # model.half() rounds them; the new ones are not
        old = old.float()
        expected = old / factor if method == "interpolate" else old * ntk_base(factor) ** -steps
        if not torch.allclose(new, old if "sliding" in name else expected, rtol=tolerance, atol=0):
            raise UnsupportedModelError(
                f"{type(network).__name__} does not compute its rotary frequencies as its configuration says. "
                "This architecture needs support in st_plugins/long_texts/rotary_positions.py."
            )
    place.__dict__.update(rebuilt.__dict__)
