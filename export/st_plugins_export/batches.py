"""Arranges tokenized texts into batches that waste little padding. Pure numpy."""

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np


def plan_batches(lengths: Sequence[int], token_budget: int, batch_size: int | None) -> Iterator[np.ndarray]:
    """Positions of the texts of each batch, longest texts first.

    A batch is as large as ``rows * longest`` stays within the budget. Small batches stay in the CPU's cache, and
    neighbours of equal length need no padding.

    Args:
        lengths: Tokens per text.
        token_budget: Tokens per batch, padding included. A text longer than that is a batch of its own.
        batch_size: Most rows per batch, or None.

    Yields:
        np.ndarray: Positions into ``lengths``; every position exactly once.

    Example:
        >>> [batch.tolist() for batch in plan_batches([2, 9, 2, 3], token_budget=9, batch_size=None)]
        [[1], [3, 0, 2]]
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    start = 0
    while start < len(order):
        rows = max(1, token_budget // max(1, lengths[order[start]]))
        if batch_size is not None:
            rows = min(rows, batch_size)
        yield order[start : start + rows]
        start += rows


def token_mask(lengths: Sequence[int], *, side: str) -> np.ndarray:
    """Where the tokens of each row are, and where the gaps.

    Args:
        lengths: Tokens of each of B rows.
        side: Where the gaps are: ``"right"`` or ``"left"``.

    Returns:
        np.ndarray: (B, T) bool, T the largest length.

    Example:
        >>> token_mask([3, 1], side="left").tolist()
        [[True, True, True], [False, False, True]]
    """
    positions = np.arange(max(lengths))  # (T,)
    if side == "left":
        positions = positions[::-1]
    return positions < np.asarray(lengths)[:, None]


def pad(rows: Sequence[Sequence[int]], value: int, mask: np.ndarray) -> np.ndarray:
    """Rows of different length as one array.

    Args:
        rows: B rows of integers.
        value: Fills the gaps.
        mask: (B, T), their :func:`token_mask`.

    Returns:
        np.ndarray: (B, T) int64.

    Example:
        >>> pad([[1, 2, 3], [4]], 0, token_mask([3, 1], side="left")).tolist()
        [[1, 2, 3], [0, 0, 4]]
    """
    if len(rows) == 1:
        return np.array(rows, dtype=np.int64)
    result = np.full(mask.shape, value, dtype=np.int64)  # (B, T)
    result[mask] = np.fromiter(chain.from_iterable(rows), dtype=np.int64)
    return result
