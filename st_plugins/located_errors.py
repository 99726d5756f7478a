"""Finds the text that an error of a batch is about. Imports nothing but the errors."""

from collections.abc import Callable, Sequence
from typing import Any

from st_plugins.errors import InputError


def encode_located(encode: Callable[[list[str]], Any], texts: Sequence[str]) -> Any:
    """``encode(texts)``; if it refuses a text, the error says at which position of ``texts`` the first such one is.

    sentence-transformers sorts texts before it makes batches of them, so what fails inside a batch does not know which
    text of the call it was. It is found by encoding halves again, at most as much work as the call itself. A call that
    does not fail costs nothing more.

    Args:
        encode: Takes a list of texts.
        texts: N texts.

    Returns:
        Any: What ``encode`` returns.

    Raises:
        InputError: Or the subclass of it that ``encode`` raised, with the position.

    Example:
        >>> encode_located(len, ["a", "b"])
        2
    """
    try:
        return encode(list(texts))
    except InputError as error:
        position, found = _first_refused(encode, list(texts), error)
        if position is None:
            raise
        raise type(found)(f"The text at position {position} of {len(texts)} cannot be embedded. {found}") from error


def _first_refused(
    encode: Callable[[list[str]], Any], texts: list[str], error: InputError
) -> tuple[int | None, InputError]:
    """The position of the first text that is refused alone, and the error; None if only a whole batch is."""
    start, stop = 0, len(texts)
    while stop - start > 1:
        middle = (start + stop) // 2
        refusal = _refusal(encode, texts[start:middle])
        if refusal is None:
            start = middle
        else:
            stop, error = middle, refusal
    refusal = _refusal(encode, texts[start:stop])
    return (None, error) if refusal is None else (start, refusal)


def _refusal(encode: Callable[[list[str]], Any], texts: list[str]) -> InputError | None:
    try:
        encode(texts)
    except InputError as error:
        return error
    return None
