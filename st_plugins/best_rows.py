"""The best of many scores, in an order that does not depend on how they were found. Numpy alone."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def k_best(scores: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Positions of the k greatest scores, best first, and of equal ones the first: no others, in no other order.

    Args:
        scores: (n,), numbers; NaN has no place among them.
        k: At most n are returned.

    Returns:
        numpy.ndarray: (min(k, n),) integers.

    Example:
        >>> k_best(np.array([0.5, 0.9, 0.5, 0.1]), 2).tolist()
        [1, 0]
    """
    rows = np.arange(len(scores))
    if k < len(scores):
        # All that reach the k-th score, in order: a partition alone keeps any of several equals.
        rows = np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[len(scores) - k]) if k else rows[:0]
    return rows[np.argsort(-scores[rows], kind="stable")][:k]
