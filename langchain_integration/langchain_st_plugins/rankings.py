"""The documents of a state most similar to a query: all of them compared, or a shortlist of them ranked in full."""

import numpy as np

from langchain_st_plugins.filters import Filter
from langchain_st_plugins.index_states import IndexState, cut
from langchain_st_plugins.scans import best_rows
from langchain_st_plugins.unit_vectors import unit_vectors
from st_plugins.errors import ShapeError, SizeError


def ranked(
    state: IndexState,
    vector: np.ndarray,
    k: int,
    filter: Filter | None = None,
    shortlist_dim: int | None = None,
    fetch_k: int = 100,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k best documents. Arguments and errors are those of :meth:`ElasticIndex.search`.

    Returns:
        tuple: Rows (m,), best first, their cosines (m,) and their vectors (m, d); m is less than k only if fewer
        documents pass the filter.

    Example:
        >>> from langchain_core.documents import Document
        >>> state = IndexState.of([Document("a"), Document("b")], np.eye(2, dtype=np.float32))
        >>> ranked(state, np.array([0.6, 0.8]), 1)[0].tolist()
        [1]
    """
    check_count("k", k)
    check_count("fetch_k", fetch_k)
    query, wanted = _query(vector), state.matching(filter)
    dim, width = len(query), state.vectors.shape[1]
    if not state.count or (wanted is not None and not len(wanted)):
        return np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros((0, dim))
    if dim > width:
        raise SizeError(
            f"dim must be from 1 to {width}, the width of the documents in this index, got a query of width {dim}."
        )
    short = _shortlist(state, query, wanted, shortlist_dim, max(k, fetch_k))
    if short is None:
        fine = state.prefix(dim)
        rows = best_rows(fine, query, k, wanted)
        vectors = fine[rows]
    else:
        near = cut(state.vectors[short], dim)  # (fetch_k, d)
        order = best_rows(near, query, k)
        rows, vectors = short[order], near[order]
    cosines = (vectors * query).sum(axis=1)  # row by row: in a product each would depend on how many there are
    # Rounding may carry a cosine a hair out of its range.
    return rows, np.clip(cosines, -1.0, 1.0), vectors


def check_count(name: str, value: int) -> None:
    """Raise a TypeError or ValueError unless ``value`` is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer of at least 1, got {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value}.")


def _shortlist(
    state: IndexState, query: np.ndarray, wanted: np.ndarray | None, shortlist_dim: int | None, length: int
) -> np.ndarray | None:
    """Rows (length,), ascending, that are worth ranking; None if all of them are."""
    if length >= (state.count if wanted is None else len(wanted)):
        return None
    dim = state.vectors.shape[1] if shortlist_dim is None else shortlist_dim
    check_count("shortlist_dim", dim)
    # A graph knows nothing of filters: those it found might all fail.
    if state.graph is not None and wanted is None and state.graph.dim == dim <= len(query):
        short = state.graph.nearest(_query(query[:dim]), length)
        if short is not None:
            return np.sort(short)
    if dim >= len(query):
        return None
    return np.sort(best_rows(state.prefix(dim), _query(query[:dim]), length, wanted))


def _query(vector: np.ndarray) -> np.ndarray:
    if np.ndim(vector) != 1:
        raise ShapeError(f"A query must be one vector (d,), got shape {np.shape(vector)}. Search once per query.")
    return unit_vectors(np.asarray(vector)[np.newaxis])[0]  # (d,)
