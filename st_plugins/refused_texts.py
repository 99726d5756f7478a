"""Refuses texts that a tokenizer cannot take, and says which and why."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from st_plugins.errors import InputError

_CHARACTERS_SHOWN = 40


@contextmanager
def refused_texts(inputs: Any) -> Iterator[None]:
    r"""Turns the TypeError that tokenizers raise for a lone surrogate into an error that names the text.

    Args:
        inputs: What is being tokenized; only strings in a list are looked at.

    Raises:
        InputError: With the row of the batch and the beginning of the text.

    Example:
        >>> with refused_texts(["fine", "not \ud800"]):
        ...     raise TypeError("TextEncodeInput must be Union[...]")
        Traceback (most recent call last):
        st_plugins.errors.InputError: The text at row 1 of the batch, 'not \ud800', is not valid Unicode ...
    """
    try:
        yield
    except (TypeError, UnicodeEncodeError):
        for row, text in enumerate(inputs if isinstance(inputs, list) else []):
            _check_unicode(text, row)
        raise


def with_tokens(features: dict[str, Any], inputs: Any) -> dict[str, Any]:
    """The features, unless a text has no token, so that there is nothing to pool.

    Args:
        features: With ``attention_mask`` (B, T); without, nothing is checked.
        inputs: What was tokenized, for the message.

    Raises:
        InputError: With the row of the batch.

    Example:
        >>> with_tokens({"attention_mask": torch.tensor([[1, 1], [0, 0]])}, ["a", ""])
        Traceback (most recent call last):
        st_plugins.errors.InputError: The text at row 1 of the batch, '', has no tokens. Leave it out.
    """
    mask = features.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return features
    has_tokens = mask.any(dim=1)
    if not bool(has_tokens.all()):
        row = int((~has_tokens).nonzero()[0])
        raise InputError(f"The text at row {row} of the batch, {_shown(inputs[row])}, has no tokens. Leave it out.")
    return features


def _check_unicode(text: Any, row: int) -> None:
    if not isinstance(text, str):
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"The text at row {row} of the batch, {_shown(text)}, is not valid Unicode ({error}). "
            "Clean it, for instance with text.encode(errors='replace').decode()."
        ) from None


def _shown(text: Any) -> str:
    return repr(text[:_CHARACTERS_SHOWN]) if isinstance(text, str) else repr(text)
