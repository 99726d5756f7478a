"""Exact, by a funnel, by a graph: the same question to the same documents."""

import numpy as np
import pytest
from langchain_core.documents import Document

from langchain_st_plugins.graphs import Graph
from langchain_st_plugins.index_states import IndexState, cut
from langchain_st_plugins.rankings import check_count, ranked
from st_plugins.errors import ShapeError, SizeError

COUNT, WIDTH = 1500, 24


@pytest.fixture(scope="module")
def vectors():
    """Prefixes carry most, as in a Matryoshka model."""
    vectors = np.random.default_rng(0).standard_normal((COUNT, WIDTH), dtype=np.float32)
    vectors *= np.exp(-np.arange(WIDTH) / 6)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def state(vectors):
    return IndexState.of([Document(str(i), id=str(i), metadata={"n": i}) for i in range(COUNT)], vectors)


@pytest.fixture(scope="module")
def queries(vectors):
    return vectors[::75] + 0.05 * np.random.default_rng(1).standard_normal((20, WIDTH))


def with_graph(state, dim):
    return state.with_graph(Graph.empty(dim).extended(cut(state.vectors, dim)))


class Untouchable:
    """A graph that must not be asked."""

    def __init__(self, dim):
        self.dim = dim


class Blind(Untouchable):
    """A graph that finds too few."""

    def nearest(self, query, count):
        return None


@pytest.mark.parametrize(("dim", "shortlist_dim"), [(24, None), (24, 8), (16, 8)])
def test_a_graph_finds_nearly_what_all_comparisons_find(state, queries, dim, shortlist_dim):
    graphed, shares = with_graph(state, shortlist_dim or WIDTH), []
    for query in queries[:, :dim]:
        exact_rows, exact_scores, _ = ranked(state, query, 10)
        rows, scores, found = ranked(graphed, query, 10, None, shortlist_dim, 100)
        assert len(rows) == 10
        same = np.isin(rows, exact_rows)
        shares.append(same.mean())
        # What it finds is ranked and scored exactly.
        np.testing.assert_allclose(scores, cut(state.vectors[rows], dim) @ (query / np.linalg.norm(query)), atol=1e-6)
        assert (np.diff(scores) <= 0).all()
        np.testing.assert_allclose(scores[same], exact_scores[np.isin(exact_rows, rows)], atol=1e-6)
        assert found.shape == (10, dim)
    assert np.mean(shares) > 0.97  # threads build it, so a few of the 200 come and go from run to run


@pytest.mark.parametrize(
    ("dim", "filter", "shortlist_dim", "fetch_k"),
    [
        (24, {"n": 3}, None, 1),  # a filter
        (24, lambda document: document.metadata["n"] > 900, 8, 50),
        (12, None, None, 20),  # a query narrower than the graph
        (24, None, 9, 20),  # a shortlist by other coordinates
        (24, None, None, COUNT),  # a shortlist of everything
    ],
)
def test_other_searches_are_what_they_are_without_a_graph(state, queries, dim, filter, shortlist_dim, fetch_k):
    graphed = state.with_graph(Untouchable(8 if shortlist_dim == 8 else WIDTH))
    for query in queries[:3, :dim]:
        expected = ranked(state, query, 5, filter, shortlist_dim, fetch_k)
        for one, other in zip(ranked(graphed, query, 5, filter, shortlist_dim, fetch_k), expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("shortlist_dim", [None, 8])
def test_where_a_graph_finds_too_few_all_are_compared(state, queries, shortlist_dim):
    graphed = state.with_graph(Blind(shortlist_dim or WIDTH))
    rows, _, _ = ranked(graphed, queries[0], 9, None, shortlist_dim, 20)
    np.testing.assert_array_equal(rows, ranked(state, queries[0], 9, None, shortlist_dim, 20)[0])


def test_a_filter_that_passes_few_still_gives_k_documents(state, queries):
    """Those that pass are the farthest of all, where no shortlist reaches."""
    graphed = with_graph(state, WIDTH)
    order = np.argsort(-(state.vectors @ queries[0]))
    far = {int(row) for row in order[-30:]}
    rows, _, _ = ranked(graphed, queries[0], 30, lambda document: document.metadata["n"] in far)
    np.testing.assert_array_equal(np.sort(rows), sorted(far))


def test_bad_questions_are_refused(state):
    with pytest.raises(ShapeError, match=r"A query must be one vector \(d,\), got shape \(1, 24\)\. Search once"):
        ranked(state, np.ones((1, 24)), 1)
    with pytest.raises(
        SizeError, match="from 1 to 24, the width of the documents in this index, got a query of width 25"
    ):
        ranked(state, np.ones(25), 1)
    with pytest.raises(ValueError, match="shortlist_dim must be an integer of at least 1, got 0"):
        ranked(state, np.ones(24), 1, None, 0)
    with pytest.raises(TypeError, match="k must be an integer of at least 1, got True"):
        check_count("k", True)


def test_a_score_does_not_depend_on_how_many_there_are(state, queries):
    for query in queries:
        rows, scores, _ = ranked(state, query, 40)
        for k in (1, 2, 3, 7):
            np.testing.assert_array_equal(ranked(state, query, k)[1], scores[:k])
        alone = [ranked(state, query, 1, {"n": row})[1][0] for row in rows[:5].tolist()]
        np.testing.assert_array_equal(alone, scores[:5])
