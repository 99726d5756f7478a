"""What an index holds at one moment. A change makes a new state; a search in an old one is not disturbed."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import numpy as np
from langchain_core.documents import Document

from langchain_st_plugins.filters import Filter, matching
from langchain_st_plugins.graphs import Graph
from langchain_st_plugins.row_buffers import RowBuffer
from langchain_st_plugins.stored_documents import StoredDocuments

# Dims whose cut vectors are kept. More would let a caller who tries every dim fill the memory.
_PREFIXES_KEPT = 4


@dataclass(frozen=True)
class IndexState:
    """n documents with their vectors. Any thread may read it; one at a time may make new ones of the newest.

    Args:
        held: At least n documents; further ones belong to later states.
        buffer: Their vectors (n, width).
        prefixes: Cut and normalized vectors (n, dim) by dim.
        graph: Of the n documents, or of the first ones while it is being extended; None if there is none.

    Example:
        >>> state = IndexState.of([Document("a", id="1")], np.ones((1, 4), dtype=np.float32))
        >>> state.prefix(2).shape
        (1, 2)
    """

    held: list[Document] | StoredDocuments
    buffer: RowBuffer
    prefixes: dict[int, RowBuffer] = field(default_factory=dict)
    graph: Graph | None = None
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)  # around prefixes and places

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

    @property
    def places(self) -> dict[str | None, int]:
        """The row of every id; rows from ``count`` on are not of this state. Reads all documents, once."""
        with self.lock:
            return self._places

    @cached_property
    def _places(self) -> dict[str | None, int]:
        return {document.id: row for row, document in enumerate(self._loaded())}

    def extended(self, documents: list[Document], vectors: np.ndarray) -> "IndexState":
        """A state with these behind the others; their ids must be new."""
        held = self._loaded() if isinstance(self.held, StoredDocuments) or len(self.held) != self.count else self.held
        if not self.count:
            return IndexState.of(list(documents), vectors)
        held.extend(documents)
        with self.lock:
            prefixes = {dim: prefix.extended(cut(vectors, dim)) for dim, prefix in self.prefixes.items()}
            state = IndexState(held, self.buffer.extended(vectors), prefixes, lock=self.lock)
            if "_places" in self.__dict__:
                # Shared like the list: rows from count on are not of an older state.
                self._places.update({document.id: self.count + row for row, document in enumerate(documents)})
                state.__dict__["_places"] = self._places
        return state

    def with_graph(self, graph: Graph | None) -> "IndexState":
        """The same documents with a graph of theirs, or without one."""
        if graph is self.graph:
            return self
        with self.lock:
            state = replace(self, graph=graph)
            if "_places" in self.__dict__:
                state.__dict__["_places"] = self._places
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
        state = IndexState.of([self.held[row] for row in kept.tolist()], self.vectors[kept])
        return state if self.graph is None else state.with_graph(self.graph.without(kept))

    def matching(self, filter: Filter | None) -> np.ndarray | None:
        """The rows that pass a filter, ascending; None if there is no filter. Reads all documents."""
        return None if filter is None else matching(self._loaded(), filter)

    def prefix(self, dim: int) -> np.ndarray:
        """The vectors cut to ``dim`` and normalized, (n, dim); kept for the next time."""
        if dim == self.vectors.shape[1]:
            return self.vectors
        with self.lock:
            if dim not in self.prefixes:
                if len(self.prefixes) == _PREFIXES_KEPT:
                    del self.prefixes[next(iter(self.prefixes))]
                self.prefixes[dim] = RowBuffer.of(cut(self.vectors, dim))
            return self.prefixes[dim].rows

    def _loaded(self) -> list[Document]:
        documents = self.held.loaded() if isinstance(self.held, StoredDocuments) else self.held
        return documents if len(documents) == self.count else documents[: self.count]


def cut(vectors: np.ndarray, dim: int) -> np.ndarray:
    """The first ``dim`` coordinates of unit vectors (n, width), normalized again: (n, dim).

    Example:
        >>> cut(np.array([[0.6, 0.0, 0.8]]), 2)
        array([[1., 0.]])
    """
    if dim == vectors.shape[1]:
        return vectors
    short = vectors[:, :dim]
    norms = np.linalg.norm(short, axis=1, keepdims=True)
    # A document whose prefix is zero points nowhere; it stays zero and gets the cosine 0.
    return short / np.where(norms > 0, norms, 1)  # a copy: contiguous rows are faster to scan
