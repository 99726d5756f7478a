"""The special tokens that a tokenizer puts around every text: how many on each side. Reads no text of anybody."""

from typing import Any


def tokens_around(tokenizer: Any) -> tuple[int, int]:
    """How many special tokens come before a text and behind it.

    Args:
        tokenizer: Of a model, from transformers.

    Example:
        >>> tokens_around(SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2").tokenizer)
        (1, 1)
    """
    mask = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    return mask.index(0), mask[::-1].index(0)
