"""An index of unit vectors and their documents, with what they were made with; exact, or by a shortlist."""

import threading
from collections.abc import Sequence

import numpy as np
from langchain_core.documents import Document
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from langchain_st_plugins.budgets import Budget
from langchain_st_plugins.document_copies import with_id
from langchain_st_plugins.filters import Filter
from langchain_st_plugins.graphs import Graph, usearch_index
from langchain_st_plugins.index_states import IndexState, cut
from langchain_st_plugins.rankings import check_count, ranked
from langchain_st_plugins.texts import check_id_list, check_ids
from langchain_st_plugins.unit_vectors import unit_vectors
from st_plugins.errors import IndexMismatchError, ShapeError, SizeError


class ElasticIndex:
    """Documents by cosine; a query narrower than the documents searches their prefix.

    The vectors are stored once, at the width they were embedded with. It embeds nothing. A search reads every document,
    or with ``shortlist_dim`` only the first coordinates of each, and ranks the best of those at full width: a funnel.
    After :meth:`keep_graph` an HNSW graph chooses the shortlist, and a search reads few documents. Searches may run
    while documents are added or deleted; they see all of a change or none of it.

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
        self._graph_from: int | None = None
        self._graph_dim: int | None = None
        self._changes = threading.Lock()  # one at a time; a search reads self._state once and then only that

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
        with self._changes:
            self._state = state

    def keep_graph(self, count: int | None, *, dim: int | None = None) -> None:
        """From ``count`` documents on, let an HNSW graph choose the shortlist of a search without a filter.

        Where there are so many already it is made now; later ones join it when they are added. A search with a filter
        looks at all documents that pass, so it finds k of them whenever there are k.

        Args:
            count: How many; None for no graph.
            dim: Coordinates it compares; None for all. It serves searches with this ``shortlist_dim`` whose query is
                at least as wide, the others go on without it.

        Raises:
            MissingExtraError: If usearch is not installed.
            TypeError, ValueError: If ``count`` is no integer of at least 1.
            SizeError: If the documents have fewer coordinates.
        """
        if count is not None:
            check_count("count", count)
            usearch_index()
        with self._changes:
            if count is not None:
                _check_graph_dim(dim, self.width)
            self._graph_from, self._graph_dim = count, dim
            self._state = self._state.with_graph(self._graph_after(self._state, self._state.vectors[:0]))

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
            SizeError: If they are narrower than the graph that shall be kept.
            ValueError: If an id comes twice, see :func:`check_ids`. In every case nothing was added.
        """
        if not documents:
            return []
        new = unit_vectors(vectors)  # (n, width)
        if len(new) != len(documents):
            raise ShapeError(f"Every document needs one vector, got {len(new)} vectors for {len(documents)} documents.")
        check_ids(documents)
        copies = [with_id(document) for document in documents]
        with self._changes:
            if self.width not in (None, new.shape[1]):
                raise IndexMismatchError(
                    f"This index holds vectors of width {self.width}, got width {new.shape[1]}. "
                    "Embed the documents with the model, layer and dim the index was built with."
                )
            if self._graph_from is not None:
                _check_graph_dim(self._graph_dim, new.shape[1])
            # An id that was made up just now cannot be in the index.
            known = [document.id for document in documents if document.id is not None]
            state = self._state.without(known)
            # The graph first, which takes longest and may fail.
            graph = self._graph_after(state, new)
            self._state = state.extended(copies, new).with_graph(graph)
        return [str(copy.id) for copy in copies]

    def delete(self, ids: Sequence[str]) -> int:
        """Drop documents.

        Args:
            ids: Of documents; unknown ones do nothing.

        Returns:
            int: How many were dropped.

        Raises:
            TypeError: If ``ids`` is one str, whose letters would be taken for ids.
        """
        check_id_list(ids)
        with self._changes:
            before = self._state
            after = before.without(ids)
            self._state = after.with_graph(self._graph_after(after, after.vectors[:0]))
        return before.count - after.count

    def get(self, ids: Sequence[str]) -> list[Document]:
        """Copies of the documents with these ids, in that order; unknown ids are left out. Errors as :meth:`delete`."""
        check_id_list(ids)
        state = self._state
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
        state = self._state
        rows, scores, _ = ranked(state, vector, k, filter, shortlist_dim, fetch_k)
        return [(state.documents[row], score) for row, score in zip(rows.tolist(), scores.tolist(), strict=True)]

    def search_diverse(
        self,
        vector: np.ndarray,
        *,
        k: int,
        candidates: int,
        lambda_mult: float,
        filter: Filter | None = None,
        shortlist_dim: int | None = None,
        fetch_k: int = 100,
    ) -> list[Document]:
        """Documents by maximal marginal relevance: similar to the query, and not to one another.

        Args:
            vector: As in :meth:`search`.
            k: How many.
            candidates: Out of how many of the most similar ones; never fewer than k.
            lambda_mult: 1 looks at the query alone, 0 at diversity alone.
            filter: As in :meth:`search`, which finds the candidates.
            shortlist_dim: As there.
            fetch_k: As there.
        """
        state = self._state
        check_count("k", k)
        rows, _, vectors = ranked(state, vector, max(k, candidates), filter, shortlist_dim, fetch_k)
        query = np.asarray(vector)
        chosen = maximal_marginal_relevance(query, list(vectors), lambda_mult=lambda_mult, k=k) if len(rows) else []
        return [state.documents[rows[i]] for i in chosen]

    def _graph_after(self, state: IndexState, new: np.ndarray) -> Graph | None:
        """The graph of a state and further vectors (m, width), or None if it shall have none."""
        width = new.shape[1]
        if self._graph_from is None or state.count + len(new) < max(self._graph_from, 1):
            return None
        dim, graph = width if self._graph_dim is None else self._graph_dim, state.graph
        if graph is None or graph.dim != dim or graph.is_mostly_gone:
            graph = Graph.empty(dim).extended(cut(state.vectors, dim))
        return graph.extended(cut(new, dim))


def _check_graph_dim(dim: int | None, width: int | None) -> None:
    """At once, and not when there are documents enough for a graph."""
    if dim is not None and width is not None and dim > width:
        raise SizeError(
            f"The dim of a graph must be from 1 to {width}, the width of the documents, got {dim}. "
            "Choose a smaller one (shortlist_dim of a store)."
        )
