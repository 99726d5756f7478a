"""What an index of vectors must be able to do, and the simplest one that can: exact, in memory."""

from collections.abc import Sized
from typing import Any, Protocol

import numpy as np

from st_plugins.best_rows import k_best
from st_plugins.errors import IndexMismatchError, InputError, ShapeError

_SCORES_AT_ONCE = 2**25  # 128 MB


class VectorIndex(Protocol):
    """An index by dot product, as faiss has them: ``faiss.IndexFlatIP``, ``IndexHNSWFlat`` and the rest fit."""

    def add(self, vectors: np.ndarray, /) -> Any:
        """Take in vectors (n, D), float32; their rows count on from the last."""

    def search(self, vectors: np.ndarray, k: int, /) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows of the k best for each query (Q, D), both (Q, k), best first; row -1 where there is none."""


class ExactIndex:
    """All vectors in one array, all dot products computed. Finds what is to be found; for some 100,000 vectors.

    It does not normalize, because the lengths of fixed dimensional encodings carry meaning. Of equal scores the first
    row is better.

    Args:
        width: D of the vectors.

    Raises:
        ShapeError: If vectors of another width come.
        InputError: If they hold NaN or infinity, which cannot be ranked.

    Example:
        >>> index = ExactIndex(2)
        >>> index.add(np.array([[1.0, 0.0], [0.0, 2.0]]))
        >>> scores, rows = index.search(np.array([[1.0, 1.0]]), 2)
        >>> scores.tolist(), rows.tolist()
        ([[2.0, 1.0]], [[1, 0]])
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._parts: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def add(self, vectors: np.ndarray) -> None:
        """Take in vectors (n, D); nothing is copied if they are float32."""
        self._parts.append(self._checked(vectors))

    def search(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows of the k best for each query, (Q, min(k, vectors held)), best first."""
        queries = self._checked(vectors)
        self._parts = [np.concatenate(self._parts)] if len(self._parts) > 1 else self._parts
        held = self._parts[0] if self._parts else np.zeros((0, self.width), np.float32)
        kept = min(k, len(held))
        found = np.zeros((len(queries), kept), np.float32), np.zeros((len(queries), kept), np.int64)
        step = max(1, _SCORES_AT_ONCE // max(1, len(held)))
        for start in range(0, len(queries) if kept else 0, step):
            scores = queries[start : start + step] @ held.T
            for row, line in enumerate(scores, start):
                found[1][row] = k_best(line, kept)
                found[0][row] = line[found[1][row]]
        return found

    def _checked(self, vectors: np.ndarray) -> np.ndarray:
        vectors = np.asarray(vectors, np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.width:
            raise ShapeError(
                f"ExactIndex(width={self.width}) needs vectors of shape (n, {self.width}), got {vectors.shape}. "
                "Build it with the width of what it is to hold."
            )
        if not np.isfinite(vectors).all():
            raise InputError("Vectors of an ExactIndex must be finite, and some hold NaN or infinity. Leave those out.")
        return vectors


def checked_empty(index: VectorIndex) -> VectorIndex:
    """The same index, which must be empty if it can say so: its rows are to be the documents.

    Raises:
        IndexMismatchError: If it holds vectors.
    """
    held = getattr(index, "ntotal", None)  # faiss
    if held is None:
        held = len(index) if isinstance(index, Sized) else 0
    if held:
        raise IndexMismatchError(
            f"The index must be empty, for its rows are the documents; it holds {held}. Pass a new one."
        )
    return index
