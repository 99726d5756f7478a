"""Attention in which far tokens share positions (SelfExtend), as an attention function of transformers.

It is registered under a name of its own, ``ATTENTION``, in the registry of transformers; a network whose configuration
names it uses it, nothing is replaced. The function gets queries and keys that were rotated to their positions
already, and turns those of far pairs on to the shared ones: two rotations one after the other are one.
"""

import sys
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from st_plugins.errors import UnsupportedModelError

ATTENTION = "st_plugins_grouped"
# Those whose attention asks the registry, whose positions are rotary in every layer, and that the tests have tried.
FAMILIES = ("eurobert", "llama", "mistral", "nomic_bert", "qwen2", "qwen3")


def grouped_distances(length: int, group_size: int, window: int) -> Tensor:
    """How far apart attention takes two tokens to be: (L, L) integers, token i seen from j is at i - j, or nearer.

    With g the group size and w the window::

        i - j                                                 where |i - j| < w
        floor(i / g) - floor(j / g) + sign(i - j) (w - floor(w / g))      elsewhere

    Example:
        >>> grouped_distances(10, 2, 4)[:, 0].tolist()
        [0, 1, 2, 3, 4, 4, 5, 5, 6, 6]
    """
    places = torch.arange(length)
    near = places[:, None] - places
    groups = places // group_size
    far = groups[:, None] - groups + near.sign() * (window - window // group_size)
    return torch.where(near.abs() < window, near, far)


def grouped_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """An attention function of transformers; group size and window are ``module.config.grouped_attention``.

    Args:
        module: An attention layer.
        query: (B, H, L, d), rotated to positions 0 to L - 1.
        key: (B, H or fewer, L, d), likewise.
        value: As the key.
        attention_mask: (B, 1, L, L), added to the scores; None masks nothing.
        scaling: Of the scores.
        dropout: Of the weights, in training.

    Returns:
        tuple: (B, L, H, d), and the weights (B, H, L, L).
    """
    copies = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(copies, dim=1), value.repeat_interleave(copies, dim=1)
    scores = query @ key.mT
    group_size, window = module.config.grouped_attention
    if query.shape[2] > window:
        scores = _with_far(module.config, query, key, scores, attention_mask, group_size, window)
    scores = scores * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def frequencies(config: Any) -> Tensor:
    """Radians per position of each pair of coordinates, as the default rotary positions have them.

    Example:
        >>> from transformers import LlamaConfig
        >>> frequencies(LlamaConfig(hidden_size=8, num_attention_heads=2))
        tensor([1.0000, 0.0100])
    """
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return _rotary(config)["rope_theta"] ** -(torch.arange(0, width, 2) / width)


def _rotary(config: Any) -> dict[str, Any]:
    """What turns the positions; transformers 4 has it in two entries, and a name for a scaling only."""
    if hasattr(config, "rope_parameters"):
        return config.rope_parameters or {}
    scaling = getattr(config, "rope_scaling", None) or {}
    return {"rope_theta": config.rope_theta, **scaling} if hasattr(config, "rope_theta") else {}


@torch.no_grad()
def check_grouping(network: Any) -> None:
    """Refuse a network whose positions cannot be grouped, by name; turn some numbers on and see that they arrive.

    Raises:
        UnsupportedModelError: If the family is none of ``FAMILIES``, or its rotary positions were scaled, or are others
            than its configuration says.
    """
    config = network.config
    parameters = _rotary(config)
    is_usual = "rope_theta" in parameters and parameters.get("rope_type", "default") == "default"
    if config.model_type not in FAMILIES or not is_usual:
        raise UnsupportedModelError(
            f"Positions can be grouped in {', '.join(FAMILIES)}, with rotary positions as they were trained; got "
            f"{config.model_type} with rotary positions {parameters}. For learned tables there is "
            "extend_positions(method='grouped')."
        )
    rotary = next(module for module in network.modules() if hasattr(module, "inv_freq"))
    rotate = sys.modules[type(network).__module__].apply_rotary_pos_emb
    places, width = torch.tensor([[0, 3, 70, 500]], device=rotary.inv_freq.device), 2 * len(rotary.inv_freq)
    states = torch.linspace(-1, 1, 4 * width, device=places.device).reshape(1, 1, 4, width)
    before, after = (rotate(states, states, *rotary(states, positions))[0] for positions in (places, places // 3 + 5))
    if not torch.allclose(_turned(config, before, places // 3 + 5 - places), after, atol=1e-3):
        raise UnsupportedModelError(
            f"{type(network).__name__} does not rotate by the frequencies of its configuration, in halves. This "
            "architecture needs support in st_plugins/grouped_attention.py."
        )


def _with_far(
    config: Any, query: Tensor, key: Tensor, scores: Tensor, mask: Tensor | None, group_size: int, window: int
) -> Tensor:
    """Scores (B, H, L, L) with those of far pairs from shared positions, which a text counts from its first token."""
    length = query.shape[2]
    places = torch.arange(length, device=query.device)
    starts = places.new_zeros(1, 1)
    if mask is not None:  # padding on the left must not move the groups
        is_seen = (mask > torch.finfo(mask.dtype).min / 2).any(dim=(1, 2))  # (B, L)
        starts = is_seen.long().argmax(dim=1, keepdim=True)
    groups = (places - starts).clamp(min=0) // group_size  # (B, L)
    shift = window - window // group_size
    far_key = _turned(config, key, groups - places)
    behind = _turned(config, query, groups + shift - places) @ far_key.mT
    ahead = _turned(config, query, groups - shift - places) @ far_key.mT
    distances = places[:, None] - places
    far = torch.where(distances > 0, behind, ahead)
    return torch.where(distances.abs() < window, scores, far)


def _turned(config: Any, states: Tensor, positions: Tensor) -> Tensor:
    """States (B, H, L, d) moved on by so many positions (B, L)."""
    angles = positions[:, None, :, None] * frequencies(config).to(states.device)  # (B, 1, L, d / 2)
    cosines, sines = angles.cos().to(states.dtype), angles.sin().to(states.dtype)
    first, second = states.chunk(2, dim=-1)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)


AttentionInterface.register(ATTENTION, grouped_attention)
AttentionMaskInterface.register(ATTENTION, eager_mask)
