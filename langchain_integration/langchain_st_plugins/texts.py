"""Refuses texts that cannot be embedded, by position, before any work starts."""

from collections.abc import Sequence

from st_plugins.errors import InputError


def check_texts(texts: Sequence[str]) -> None:
    """Do nothing if ``texts`` is a list of texts, each with a visible character.

    Raises:
        TypeError: If it is one text, or no list at all, or an item is no str.
        InputError: If an item is blank.

    Example:
        >>> check_texts(["A text", " "])
        Traceback (most recent call last):
        st_plugins.errors.InputError: Every text must have a visible character, but the one at position 1 is blank. ...
    """
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Sequence):
        raise TypeError(
            f"texts must be a list of str, got {type(texts).__name__}. Write [text] for one text, list(texts) for many."
        )
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(
                f"Every text must be a str, but the one at position {position} is {type(text).__name__}. "
                "Leave it out or convert it."
            )
        if not text.strip():
            raise InputError(
                f"Every text must have a visible character, but the one at position {position} is blank. Leave it out."
            )
