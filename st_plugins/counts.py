"""What may count something: an integer from 1 on, and no bool."""

from typing import Any, TypeGuard

from st_plugins.errors import SizeError


def is_count(value: Any) -> TypeGuard[int]:
    """Whether a value is a positive integer; True is none.

    Example:
        >>> is_count(3), is_count(0), is_count(True), is_count(3.0)
        (True, False, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_counts(owner: str, **counts: Any) -> None:
    """Refuse sizes of a module that cannot be.

    Args:
        owner: Class name, for the message.
        **counts: By the name of the argument.

    Raises:
        SizeError: If one is not a positive integer.

    Example:
        >>> check_counts("AttentionPooling", num_heads=8)
    """
    for name, count in counts.items():
        if not is_count(count):
            raise SizeError(f"{owner} needs a positive integer {name}, got {count!r}.")
