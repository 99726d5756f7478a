"""An index of unit vectors and their documents, with what they were made with; exact, or by a shortlist."""

import threading
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
from langchain_core.documents import Document
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from langchain_st_plugins.budgets import Budget
from langchain_st_plugins.filters import Filter
from langchain_st_plugins.index_states import IndexState
from langchain_st_plugins.scans import best_rows
from langchain_st_plugins.unit_vectors import unit_vectors
from st_plugins.errors import IndexMismatchError, ShapeError, SizeError


class ElasticIndex:
    """Documents by cosine; a query narrower than the documents searches their prefix.

    The vectors are stored once, at the width they were embedded with. It embeds nothing. A search reads every document,
    or with ``shortlist_dim`` only the first coordinates of each, and ranks the best of those at full width: a funnel.
    Searches may run while documents are added or deleted; they see all of a change or none of it.

    Args:
        fingerprint: Of the model that embeds the documents.
        layer: Their depth, None for all layers.
        dim: Their width, None for the model's own.
        exit: By what they left early, None for no early exits.

    Example:
        >>> index = ElasticIndex(fingerprint="of the model")
        >>> index.add([Document("a budget", id="1"), Document("a cat", id="2")], np.array([[0.6, 0.8], [1.0, 0.0]]))
        ['1', '2']
        >>> index.search(np.array([0.0, 2.0]), k=1)
        [(Document(id='1', metadata={}, page_content='a budget'), 0.8...)]
    """

    def __init__(
        self,
        *,
        fingerprint: str,
        layer: int | None = None,
        dim: int | None = None,
        exit: str | float | None = None,
    ) -> None:
        self.fingerprint = fingerprint
        self.layer = layer
        self.dim = dim
        self.exit = exit
        self._state = IndexState.of([], np.zeros((0, dim or 0), dtype=np.float32))
        self._lock = threading.Lock()  # for changes; a search reads self._state once and then only that

    def __len__(self) -> int:
        return self._state.count

    def __repr__(self) -> str:
        return f"ElasticIndex({len(self)} documents, layer={self.layer}, dim={self.dim}, width={self.width})"

    @property
    def width(self) -> int | None:
        """Coordinates per document, None while there are no documents and no ``dim``."""
        return self._state.vectors.shape[1] or None

    @property
    def made(self) -> Budget:
        """How its documents were and will be embedded."""
        return Budget(self.layer, self.dim, self.exit)

    @property
    def state(self) -> IndexState:
        """The documents and vectors of this moment."""
        return self._state

    def replace(self, state: IndexState) -> None:
        """Hold other documents from now on."""
        with self._lock:
            self._state = state

    def add(self, documents: Sequence[Document], vectors: np.ndarray) -> list[str]:
        """Add documents with their vectors; one whose id is in the index takes the place of the old one.

        Copies are stored, so that later changes of the originals have no effect. A document without an id gets one.

        Args:
            documents: n documents.
            vectors: (n, width), normalized here.

        Returns:
            list[str]: Their ids.

        Raises:
            ShapeError: If there is not one vector per document.
            IndexMismatchError: If the vectors are not as wide as those in the index.
            ValueError: If an id comes twice, see :func:`check_ids`. In every case nothing was added.
        """
        if not documents:
            return []
        new = unit_vectors(vectors)  # (n, width)
        if len(new) != len(documents):
            raise ShapeError(f"Every document needs one vector, got {len(new)} vectors for {len(documents)} documents.")
        check_ids(documents)
        copies = [_with_id(document) for document in documents]
        with self._lock:
            if self.width not in (None, new.shape[1]):
                raise IndexMismatchError(
                    f"This index holds vectors of width {self.width}, got width {new.shape[1]}. "
                    "Embed the documents with the model, layer and dim the index was built with."
                )
            # An id that was made up just now cannot be in the index.
            known = [document.id for document in documents if document.id is not None]
            self._state = self._state.without(known).extended(copies, new)
        return [str(copy.id) for copy in copies]

    def delete(self, ids: Sequence[str]) -> int:
        """Drop documents.

        Args:
            ids: Of documents; unknown ones do nothing.

        Returns:
            int: How many were dropped.
        """
        with self._lock:
            before = self._state
            self._state = before.without(ids)
        return before.count - self._state.count

    def get(self, ids: Sequence[str]) -> list[Document]:
        """Copies of the documents with these ids, in that order; unknown ids are left out."""
        state = self._state
        with self._lock:
            places = state.places
        return [
            state.documents[places[identity]].model_copy(deep=True)
            for identity in ids
            if places.get(identity, state.count) < state.count
        ]

    def search(
        self,
        vector: np.ndarray,
        *,
        k: int,
        filter: Filter | None = None,
        shortlist_dim: int | None = None,
        fetch_k: int = 100,
    ) -> list[tuple[Document, float]]:
        """The k documents most similar to a query, best first; equal ones in the order they were added.

        Args:
            vector: (d,) with d at most :attr:`width`. Narrower than the documents, it is compared with their first d
                coordinates, normalized after the cut.
            k: How many, at least 1. Fewer come back only if fewer pass the filter.
            filter: Decides before the ranking which documents take part: a function of the document, or the metadata
                values it must have.
            shortlist_dim: Coordinates by which a shortlist is chosen, out of those of the query; None ranks them all.
            fetch_k: Length of the shortlist; it is never shorter than k.

        Returns:
            list[tuple[Document, float]]: Stored documents (copy before changing them) with raw cosines in [-1, 1].

        Raises:
            TypeError: If ``k`` is not an integer, or ``filter`` neither a function nor a dict.
            ValueError: If ``k`` or ``fetch_k`` is less than 1.
            ShapeError: If ``vector`` is not one vector.
            SizeError: If the query is wider than the documents, or the shortlist's dim does not exist.
        """
        state, query = self._state, _query(vector)
        rows, scores, _ = self._ranked(state, query, k, filter, shortlist_dim, fetch_k)
        return [(state.documents[row], score) for row, score in zip(rows.tolist(), scores.tolist(), strict=True)]

    def search_diverse(
        self, vector: np.ndarray, *, k: int, fetch_k: int, lambda_mult: float, filter: Filter | None = None
    ) -> list[Document]:
        """Documents by maximal marginal relevance: similar to the query, and not to one another.

        Args:
            vector: As in :meth:`search`.
            k: How many.
            fetch_k: Out of how many of the most similar ones; never fewer than k.
            lambda_mult: 1 looks at the query alone, 0 at diversity alone.
            filter: As in :meth:`search`.
        """
        state, query = self._state, _query(vector)
        check_count("k", k)
        rows, _, vectors = self._ranked(state, query, max(k, fetch_k), filter, None, fetch_k)
        chosen = maximal_marginal_relevance(query, list(vectors), lambda_mult=lambda_mult, k=k) if len(rows) else []
        return [state.documents[rows[i]] for i in chosen]

    def _ranked(
        self,
        state: IndexState,
        query: np.ndarray,
        k: int,
        filter: Filter | None,
        shortlist_dim: int | None,
        fetch_k: int,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows (m,), best first, their cosines (m,) and their vectors (m, d)."""
        check_count("k", k)
        check_count("fetch_k", fetch_k)
        dim, wanted = len(query), state.matching(filter)
        if not state.count or (wanted is not None and not len(wanted)):
            return np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros((0, dim))
        if dim > state.vectors.shape[1]:
            raise SizeError(
                f"dim must be from 1 to {state.vectors.shape[1]}, the width of the documents in this index, got a "
                f"query of width {dim}."
            )
        fetch_k, n = max(k, fetch_k), state.count if wanted is None else len(wanted)
        if shortlist_dim is not None and shortlist_dim < dim and fetch_k < n:
            check_count("shortlist_dim", shortlist_dim)
            with self._lock:
                coarse = state.prefix(shortlist_dim)
            short = np.sort(best_rows(coarse, _query(query[:shortlist_dim]), fetch_k, wanted))
            vectors = state.cut(short, dim)  # (fetch_k, d)
            order = best_rows(vectors, query, k)
            rows, vectors = short[order], vectors[order]
        else:
            with self._lock:
                fine = state.prefix(dim)
            rows = best_rows(fine, query, k, wanted)
            vectors = fine[rows]
        # Rounding may carry a cosine a hair out of its range.
        return rows, np.clip(vectors @ query, -1.0, 1.0), vectors


def check_ids(documents: Sequence[Document]) -> None:
    """Do nothing if no two of these documents have the same id.

    Raises:
        ValueError: If two have; which one should stay cannot be known.

    Example:
        >>> check_ids([Document("a", id="1"), Document("b", id="1")])
        Traceback (most recent call last):
        ValueError: Every id must come once, but the one at position 1, '1', came before. ...
    """
    seen: set[Any] = set()
    for position, document in enumerate(documents):
        if document.id is not None and document.id in seen:
            raise ValueError(
                f"Every id must come once, but the one at position {position}, {document.id!r}, came before. "
                "Give that document another id, or none."
            )
        seen.add(document.id)


def _query(vector: np.ndarray) -> np.ndarray:
    if np.ndim(vector) != 1:
        raise ShapeError(f"A query must be one vector (d,), got shape {np.shape(vector)}. Search once per query.")
    return unit_vectors(np.asarray(vector)[np.newaxis])[0]  # (d,)


def _with_id(document: Document) -> Document:
    identity = str(uuid.uuid4()) if document.id is None else document.id
    return document.model_copy(update={"id": identity, "metadata": dict(document.metadata)})


def check_count(name: str, value: int) -> None:
    """Raise a TypeError or ValueError unless ``value`` is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer of at least 1, got {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value}.")
