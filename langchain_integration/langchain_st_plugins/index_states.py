"""What an index holds at one moment. A change makes a new state; a search in an old one is not disturbed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import numpy as np
from langchain_core.documents import Document

from langchain_st_plugins.filters import Filter, matching
from langchain_st_plugins.row_buffers import RowBuffer
from langchain_st_plugins.stored_documents import StoredDocuments

# Dims whose cut vectors are kept. More would let a caller who tries every dim fill the memory.
_PREFIXES_KEPT = 4


@dataclass(frozen=True)
class IndexState:
    """n documents with their vectors. The caller sees to it that one thread at a time extends it or asks for a prefix.

    Args:
        held: At least n documents; further ones belong to later states.
        buffer: Their vectors (n, width).
        prefixes: Cut and normalized vectors (n, dim) by dim.

    Example:
        >>> state = IndexState.of([Document("a", id="1")], np.ones((1, 4), dtype=np.float32))
        >>> state.prefix(2).shape
        (1, 2)
    """

    held: list[Document] | StoredDocuments
    buffer: RowBuffer
    prefixes: dict[int, RowBuffer] = field(default_factory=dict)

    @classmethod
    def of(cls, documents: list[Document] | StoredDocuments, vectors: np.ndarray) -> Self:
        """These documents and their unit vectors (n, width)."""
        return cls(documents, RowBuffer.of(vectors))

    @property
    def count(self) -> int:
        """How many documents."""
        return self.buffer.count

    @property
    def documents(self) -> Sequence[Document]:
        """By row; rows from ``count`` on are not of this state."""
        return self.held

    @property
    def vectors(self) -> np.ndarray:
        """(n, width)."""
        return self.buffer.rows

    @cached_property
    def places(self) -> dict[str | None, int]:
        """The row of every id. Reads all documents."""
        return {document.id: row for row, document in enumerate(self._loaded())}

    def extended(self, documents: list[Document], vectors: np.ndarray) -> "IndexState":
        """A state with these behind the others; their ids must be new."""
        held = self._loaded() if isinstance(self.held, StoredDocuments) or len(self.held) != self.count else self.held
        if not self.count:
            return IndexState.of(list(documents), vectors)
        held.extend(documents)
        prefixes = {dim: prefix.extended(_cut(vectors, dim)) for dim, prefix in self.prefixes.items()}
        state = IndexState(held, self.buffer.extended(vectors), prefixes)
        if "places" in self.__dict__:
            # Shared like the list: rows from count on are not of an older state.
            self.places.update({document.id: self.count + row for row, document in enumerate(documents)})
            state.__dict__["places"] = self.places
        return state

    def without(self, ids: Sequence[str]) -> "IndexState":
        """A state without these; the same one if it has none of them."""
        if not ids:
            return self
        places = self.places
        dropped = {row for row in (places.get(identity, self.count) for identity in ids) if row < self.count}
        if not dropped:
            return self
        kept = np.array([row for row in range(self.count) if row not in dropped], dtype=np.int64)
        return IndexState.of([self.held[row] for row in kept.tolist()], self.vectors[kept])

    def matching(self, filter: Filter | None) -> np.ndarray | None:
        """The rows that pass a filter, ascending; None if there is no filter. Reads all documents."""
        return None if filter is None else matching(self._loaded(), filter)

    def prefix(self, dim: int) -> np.ndarray:
        """The vectors cut to ``dim`` and normalized, (n, dim); kept for the next time."""
        if dim == self.vectors.shape[1]:
            return self.vectors
        if dim not in self.prefixes:
            if len(self.prefixes) == _PREFIXES_KEPT:
                del self.prefixes[next(iter(self.prefixes))]
            self.prefixes[dim] = RowBuffer.of(_cut(self.vectors, dim))
        return self.prefixes[dim].rows

    def cut(self, rows: np.ndarray, dim: int) -> np.ndarray:
        """Some vectors (m, dim), without keeping anything."""
        chosen = self.vectors[rows]
        return chosen if dim == chosen.shape[1] else _cut(chosen, dim)

    def _loaded(self) -> list[Document]:
        documents = self.held.loaded() if isinstance(self.held, StoredDocuments) else self.held
        return documents if len(documents) == self.count else documents[: self.count]


def _cut(vectors: np.ndarray, dim: int) -> np.ndarray:
    cut = vectors[:, :dim]
    norms = np.linalg.norm(cut, axis=1, keepdims=True)
    # A document whose prefix is zero points nowhere; it stays zero and gets the cosine 0.
    return cut / np.where(norms > 0, norms, 1)  # a copy: contiguous rows are faster to scan
