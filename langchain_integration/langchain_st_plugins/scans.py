"""Exact scans: the rows of a matrix most similar to a query, and nothing approximated."""

import numpy as np

from st_plugins.best_rows import k_best

# Rows scored at once: their scores stay in a core's cache, so that few of them are ever written to memory.
_CHUNK = 16_384


def best_rows(vectors: np.ndarray, query: np.ndarray, count: int, wanted: np.ndarray | None = None) -> np.ndarray:
    """Rows with the highest dot products, best first, equal ones in order.

    Args:
        vectors: (n, d).
        query: (d,).
        count: How many, at least 1.
        wanted: (m,) the rows that may take part, ascending; None for all.

    Returns:
        np.ndarray: (min(count, n or m),) integers.

    Example:
        >>> best_rows(np.eye(3), np.array([0.1, 0.9, 0.5]), 2).tolist()
        [1, 2]
    """
    if wanted is not None:
        return wanted[k_best(vectors[wanted] @ query, count)]
    rows, scores = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=vectors.dtype)
    lowest = -np.inf  # what a row must reach to be among the best so far
    for start in range(0, len(vectors), _CHUNK):
        chunk = vectors[start : start + _CHUNK] @ query
        better = np.flatnonzero(chunk >= lowest)
        rows = np.concatenate([rows, start + better])
        scores = np.concatenate([scores, chunk[better]])
        if len(rows) > 2 * count:
            kept = np.sort(k_best(scores, count))  # in order, so that ties stay in order
            rows, scores = rows[kept], scores[kept]
            lowest = scores.min()
    return rows[k_best(scores, count)]
