"""Arranges tokenized texts into batches that waste little padding. Pure numpy."""

from collections.abc import Iterator, Sequence

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


def pad(rows: Sequence[Sequence[int]], value: int, *, side: str) -> np.ndarray:
    """Rows of different length as one array.

    Args:
        rows: B rows of integers.
        value: Fills the gaps.
        side: Where they are: ``"right"`` or ``"left"``.

    Returns:
        np.ndarray: (B, T) int64, T the length of the longest row.

    Example:
        >>> pad([[1, 2, 3], [4]], 0, side="left").tolist()
        [[1, 2, 3], [0, 0, 4]]
    """
    longest = max(len(row) for row in rows)
    result = np.full((len(rows), longest), value, dtype=np.int64)  # (B, T)
    for target, row in zip(result, rows, strict=True):
        start = longest - len(row) if side == "left" else 0
        target[start : start + len(row)] = row
    return result
