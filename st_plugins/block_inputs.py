"""Views in which one block reads something else than what the block before it wrote."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from st_plugins.blocks import own_blocks
from st_plugins.views import StandIn, with_blocks

Change = Callable[[Tensor], Tensor]


def changing_view(model: nn.Module, index: int, change: Change, depth: int | None = None) -> nn.Module:
    """A view in which the input of one block goes through a function.

    All blocks before it run as ever, also if the function does not look at what they wrote.

    Args:
        model: A ``PreTrainedModel`` that :func:`find_blocks` accepts, ALBERT excepted.
        index: The block, counted from 0.
        change: Takes and returns states (B, T, D).
        depth: Blocks to keep, more than ``index``; None for all.

    Returns:
        nn.Module: A model of the same class.

    Raises:
        UnsupportedModelError: If one block serves every layer.
    """
    advice = "the input of one layer cannot be changed alone. Take a model whose layers have blocks of their own."
    blocks = own_blocks(model, advice)[:depth]
    blocks[index] = _Changed(blocks[index], change)
    return with_blocks(model, blocks)


def decoding_view(model: nn.Module, block: nn.Module, start: Tensor, attention_mask: Tensor) -> nn.Module:
    """A view with one block of its own, which reads a given vector where the text begins.

    All else is the model's. The vector replaces the input of the block: the embedding layer adds nothing to it.

    Args:
        model: A ``PreTrainedModel`` that :func:`find_blocks` accepts, ALBERT excepted.
        block: A module that is called as the model's blocks are, for instance a copy of the first.
        start: (B, D), one vector per text.
        attention_mask: (B, T) 0/1; the vector goes to the first 1 of each row.

    Returns:
        nn.Module: A model of the same class, for one forward pass over the same B texts.
    """

    def begin(states: Tensor) -> Tensor:
        first = attention_mask.argmax(dim=1, keepdim=True)  # (B, 1)
        here = torch.arange(states.shape[1], device=states.device) == first  # (B, T)
        return torch.where(here[..., None], start[:, None].to(states.dtype), states)

    return with_blocks(model, [_Changed(block, begin)])


class _Changed(StandIn):
    """Calls its block on what a function makes of its input."""

    def __init__(self, block: nn.Module, change: Change) -> None:
        super().__init__(block)
        self.change = change

    def forward(self, states: Tensor, *args: Any, **kwargs: Any) -> Any:  # whatever the family passes to its blocks
        return self.block(self.change(states), *args, **kwargs)
