"""A matrix that grows by rows without being copied each time, and of which old states stay as they were."""

from dataclasses import dataclass
from typing import Self

import numpy as np


@dataclass(frozen=True)
class RowBuffer:
    """The first ``count`` rows of a buffer that may have room for more.

    Whoever holds one sees the same rows for ever: an extension writes behind them, or into a larger buffer. Only the
    newest state may be extended, by one caller at a time.

    Args:
        buffer: (capacity, width), at least ``count`` rows of it in use.
        count: Rows that belong to this state.

    Example:
        >>> buffer = RowBuffer.of(np.zeros((2, 3), dtype=np.float32))
        >>> buffer.extended(np.ones((1, 3))).rows.shape, buffer.rows.shape
        ((3, 3), (2, 3))
    """

    buffer: np.ndarray
    count: int

    @classmethod
    def of(cls, rows: np.ndarray) -> Self:
        """Exactly these rows; they may lie in a file."""
        return cls(rows, len(rows))

    @property
    def rows(self) -> np.ndarray:
        """(count, width)."""
        return self.buffer[: self.count]

    def extended(self, new: np.ndarray) -> "RowBuffer":
        """A state with these rows (m, width) behind the others."""
        count = self.count + len(new)
        buffer = self.buffer
        if count > len(buffer) or not buffer.flags.writeable:
            capacity = max(count, 2 * self.count)
            buffer = np.empty((capacity, new.shape[1]), dtype=self.buffer.dtype)
            buffer[: self.count] = self.rows
        buffer[self.count : count] = new
        return RowBuffer(buffer, count)
