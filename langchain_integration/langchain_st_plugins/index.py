"""An exact index in memory: unit vectors, their documents, and what they were made with."""

import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from langchain_core.documents import Document

from langchain_st_plugins.unit_vectors import unit_vectors
from st_plugins.errors import IndexMismatchError, ShapeError, SizeError

Filter = Callable[[Document], bool] | dict[str, Any]

# Dims whose cut vectors are kept. More would let a caller who tries every dim fill the memory.
_PREFIXES_KEPT = 4


class ElasticIndex:
    """Documents by cosine, searched whole at every query; a query narrower than the documents searches their prefix.

    The vectors are stored once, at the width they were embedded with. It embeds nothing and approximates nothing.
    Searches may run while documents are added; they see all of an addition or none of it.

    Args:
        fingerprint: Of the model that embeds the documents.
        layer: Their depth, None for all layers.
        dim: Their width, None for the model's own.

    Example:
        >>> index = ElasticIndex(fingerprint="of the model")
        >>> index.add([Document("a budget", id="1"), Document("a cat", id="2")], np.array([[0.6, 0.8], [1.0, 0.0]]))
        ['1', '2']
        >>> index.search(np.array([0.0, 2.0]), k=1)
        [(Document(id='1', metadata={}, page_content='a budget'), 0.8...)]
    """

    def __init__(self, *, fingerprint: str, layer: int | None = None, dim: int | None = None) -> None:
        self.fingerprint = fingerprint
        self.layer = layer
        self.dim = dim
        self._rows = _Rows([], np.zeros((0, dim or 0), dtype=np.float32))
        self._lock = threading.Lock()  # for changes; a search reads self._rows once and then only that

    def __len__(self) -> int:
        return len(self._rows.documents)

    def __repr__(self) -> str:
        return f"ElasticIndex({len(self)} documents, layer={self.layer}, dim={self.dim}, width={self.width})"

    @property
    def width(self) -> int | None:
        """Coordinates per document, None while there are no documents and no ``dim``."""
        return self._rows.vectors.shape[1] or None

    def add(self, documents: Sequence[Document], vectors: np.ndarray) -> list[str]:
        """Add documents with their vectors.

        Copies are stored, so that later changes of the originals have no effect. A document without an id gets one.

        Args:
            documents: n documents.
            vectors: (n, width), normalized here.

        Returns:
            list[str]: Their ids.

        Raises:
            ShapeError: If there is not one vector per document.
            IndexMismatchError: If the vectors are not as wide as those in the index.
            ValueError: If an id is taken, see :meth:`check_ids`. In every case nothing was added.
        """
        if not documents:
            return []
        new = unit_vectors(vectors)  # (n, width)
        if len(new) != len(documents):
            raise ShapeError(f"Every document needs one vector, got {len(new)} vectors for {len(documents)} documents.")
        copies = [_with_id(document) for document in documents]
        with self._lock:
            self.check_ids(documents)
            rows = self._rows
            if self.width not in (None, new.shape[1]):
                raise IndexMismatchError(
                    f"This index holds vectors of width {self.width}, got width {new.shape[1]}. "
                    "Embed the documents with the model, layer and dim the index was built with."
                )
            stored = np.concatenate([rows.vectors, new]) if rows.documents else new
            self._rows = _Rows([*rows.documents, *copies], stored)
        return [str(copy.id) for copy in copies]

    def check_ids(self, documents: Sequence[Document]) -> None:
        """Do nothing if these documents could be added; :meth:`add` checks it too, but after they were embedded.

        Raises:
            ValueError: If an id is in the index or comes twice. A document without an id is always welcome.
        """
        taken = {document.id for document in self._rows.documents}
        for position, document in enumerate(documents):
            if document.id is not None and document.id in taken:
                raise ValueError(
                    f"Every id must be new, but the one at position {position}, {document.id!r}, is taken. "
                    "Give that document another id, or none."
                )
            taken.add(document.id)

    def search(self, vector: np.ndarray, *, k: int, filter: Filter | None = None) -> list[tuple[Document, float]]:
        """The k documents most similar to a query, best first; equal ones in the order they were added.

        Args:
            vector: (d,) with d at most :attr:`width`. Narrower than the documents, it is compared with their first d
                coordinates, normalized after the cut.
            k: How many, at least 1. Fewer come back only if fewer pass the filter.
            filter: Decides before the ranking which documents take part: a function of the document, or the metadata
                values it must have.

        Returns:
            list[tuple[Document, float]]: Stored documents (copy before changing them) with raw cosines in [-1, 1].

        Raises:
            TypeError: If ``k`` is not an integer, or ``filter`` neither a function nor a dict.
            ValueError: If ``k`` is less than 1.
            ShapeError: If ``vector`` is not one vector.
            SizeError: If the query is wider than the documents.
        """
        _check_k(k)
        if np.ndim(vector) != 1:
            raise ShapeError(f"A query must be one vector (d,), got shape {np.shape(vector)}. Search once per query.")
        query = unit_vectors(np.asarray(vector)[np.newaxis])[0]  # (d,)
        rows = self._rows
        wanted = _wanted(rows.documents, filter)  # (m,)
        if not len(wanted):
            return []
        scores = (self._prefix(rows, len(query)) @ query)[wanted]  # (m,)
        best = _best(scores, k)
        # Rounding may carry a cosine a hair out of its range.
        return [(rows.documents[wanted[i]], float(np.clip(scores[i], -1.0, 1.0))) for i in best]

    def _prefix(self, rows: "_Rows", dim: int) -> np.ndarray:
        width = rows.vectors.shape[1]
        if dim > width:
            raise SizeError(
                f"dim must be from 1 to {width}, the width of the documents in this index, got a query of width {dim}."
            )
        if dim == width:
            return rows.vectors
        with self._lock:
            if dim not in rows.prefixes:
                if len(rows.prefixes) == _PREFIXES_KEPT:
                    del rows.prefixes[next(iter(rows.prefixes))]
                rows.prefixes[dim] = _cut(rows.vectors, dim)
            return rows.prefixes[dim]


@dataclass(frozen=True)
class _Rows:
    """One state of an index; an addition makes a new one."""

    documents: list[Document]
    vectors: np.ndarray  # (n, width)
    prefixes: dict[int, np.ndarray] = field(default_factory=dict)  # dim -> (n, dim)


def _cut(vectors: np.ndarray, dim: int) -> np.ndarray:
    cut = vectors[:, :dim]
    norms = np.linalg.norm(cut, axis=1, keepdims=True)
    # A document whose prefix is zero points nowhere; it stays zero and gets the cosine 0.
    return cut / np.where(norms > 0, norms, 1)  # a copy: contiguous rows are faster to scan


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Positions of the k highest scores, best first, ties in order."""
    if k >= len(scores):
        return np.argsort(-scores, kind="stable")
    lowest = np.partition(scores, len(scores) - k)[len(scores) - k]
    candidates = np.flatnonzero(scores >= lowest)  # all ties of the last one, so that order decides among them
    return candidates[np.argsort(-scores[candidates], kind="stable")][:k]


def _wanted(documents: list[Document], filter: Filter | None) -> np.ndarray:
    if filter is None:
        return np.arange(len(documents))
    if isinstance(filter, dict):
        values = filter.items()
        return np.array(
            [
                i
                for i, d in enumerate(documents)
                if all(key in d.metadata and d.metadata[key] == v for key, v in values)
            ],
            dtype=np.int64,
        )
    if not callable(filter):
        raise TypeError(f"filter must be a function of a Document or a dict of metadata, got {type(filter).__name__}.")
    return np.array([i for i, document in enumerate(documents) if filter(document)], dtype=np.int64)


def _with_id(document: Document) -> Document:
    identity = str(uuid.uuid4()) if document.id is None else document.id
    return document.model_copy(update={"id": identity, "metadata": dict(document.metadata)})


def _check_k(k: int) -> None:
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)):
        raise TypeError(f"k must be an integer of at least 1, got {k!r}.")
    if k < 1:
        raise ValueError(f"k must be an integer of at least 1, got {k}.")
