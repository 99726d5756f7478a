"""What one call may spend, layer, dim and exit: each checked, and which of two givers decides."""

from typing import Any, NamedTuple, Self

import numpy as np

from st_plugins.errors import SizeError


class Budget(NamedTuple):
    """What an embedding may cost; None means "not given".

    A layer given without an exit means that layer for every text. An exit given without a layer keeps the layer of
    whoever is asked next, as the deepest any text may reach.

    Args:
        layer: Depth.
        dim: Width.
        exit: A policy of the model, or a cosine, by which texts leave early.

    Example:
        >>> Budget(dim=64).over(Budget(layer=3, dim=128, exit="balanced"))
        Budget(layer=3, dim=64, exit='balanced')
        >>> Budget(layer=4).over(Budget(layer=3, dim=128, exit="balanced"))
        Budget(layer=4, dim=128, exit=None)
    """

    layer: int | None = None
    dim: int | None = None
    exit: str | float | None = None

    @classmethod
    def checked(cls, layer: Any = None, dim: Any = None, exit: Any = None) -> Self:
        """A budget of what a caller passed.

        Raises:
            TypeError: If layer or dim is no integer, or exit neither a name nor a number.
            SizeError: If layer or dim is less than 1.
        """
        return cls(_size("layer", layer), _size("dim", dim), _exit(exit))

    def over(self, other: "Budget") -> "Budget":
        """This budget, and where it says nothing, the other."""
        exit = other.exit if self.exit is None and self.layer is None else self.exit
        return Budget(first_given(self.layer, other.layer), first_given(self.dim, other.dim), exit)


def first_given(one: Any, other: Any) -> Any:
    """The first of two that is not None."""
    return other if one is None else one


def _size(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer of at least 1 or None, got {value!r}.")
    if value < 1:
        raise SizeError(f"{name} must be an integer of at least 1 or None, got {value}.")
    return int(value)


def _exit(value: Any) -> str | float | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"exit must be the name of a policy, a cosine like 0.98, or None, got {value!r}.")
    return float(value)
