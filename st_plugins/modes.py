"""Training and evaluation mode of a network, for the length of a probe."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block, and afterwards what every module was in before, errors included.

    The mode is a state of the model: not for code that runs while others use it.

    Args:
        model: Any module.

    Example:
        >>> layer = torch.nn.Dropout().train()
        >>> with evaluating(layer):
        ...     layer.training
        False
        >>> layer.training
        True
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, was_training in modes.items():
            module.training = was_training
