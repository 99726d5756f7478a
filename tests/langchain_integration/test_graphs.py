"""The graph alone: what it finds, what its states see of one another, and how it comes back from a file."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from langchain_st_plugins.graphs import Graph
from st_plugins.errors import ManifestError, MissingExtraError

DIM = 16
# Threads build a graph, and it depends a little on which of them is first.
ALMOST_ALL = 0.96


def unit(count, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, DIM), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def recall(graph, vectors, queries, count):
    """How much of the exact result is in a shortlist three times as long."""
    shares = []
    for query in queries:
        exact = np.argsort(-(vectors @ query), kind="stable")[:count]
        shares.append(len(set(exact) & set(graph.nearest(query, 3 * count))) / count)
    return np.mean(shares)


@pytest.fixture(scope="module")
def vectors():
    return unit(2000)


@pytest.fixture(scope="module")
def graph(vectors):
    return Graph.empty(DIM).extended(vectors)


def test_it_finds_nearly_what_a_scan_finds(graph, vectors):
    assert (graph.count, graph.dim) == (2000, DIM)
    assert recall(graph, vectors, unit(40, seed=1), 20) > ALMOST_ALL


def test_the_nearest_come_first(graph, vectors):
    query = unit(1, seed=2)[0]
    scores = vectors[graph.nearest(query, 20)] @ query
    assert (np.diff(scores) < 2e-2).all()  # to the rounding of eight bits


def test_nothing_is_added_where_there_is_nothing(graph):
    assert graph.extended(np.zeros((0, DIM), dtype=np.float32)) is graph


def test_an_older_state_does_not_see_what_came_later(vectors):
    old = Graph.empty(DIM).extended(vectors[:300])
    new = old.extended(vectors[300:600])
    assert (old.count, new.count) == (300, 600)
    query = vectors[400]
    assert new.nearest(query, 1).tolist() == [400]
    assert old.nearest(query, 5).max() < 300
    assert recall(new, vectors[:600], unit(20, seed=3), 20) > ALMOST_ALL


def test_rows_move_up_where_documents_go(graph, vectors):
    kept = np.flatnonzero(np.arange(2000) % 4 != 0)
    less = graph.without(kept)
    assert less.count == 1500
    assert recall(less, vectors[kept], unit(40, seed=1), 20) > ALMOST_ALL
    assert graph.count == 2000
    again = less.without(np.arange(100, 1500)).extended(unit(10, seed=4))
    remaining = np.concatenate([vectors[kept][100:], unit(10, seed=4)])
    assert recall(again, remaining, unit(20, seed=5), 20) > ALMOST_ALL
    assert again.nearest(remaining[-1], 1).tolist() == [len(remaining) - 1]
    assert not again.is_mostly_gone
    assert graph.without(np.arange(999)).is_mostly_gone


def test_it_says_so_when_it_finds_too_few(graph, vectors):
    """Those nearest to the query are gone, far more than it looks at."""
    query = unit(1, seed=6)[0]
    order = np.argsort(-(vectors @ query))
    less = graph.without(np.sort(order[1000:]))
    assert less.nearest(query, 50) is None


def test_nodes_of_an_addition_that_failed_belong_to_nobody(vectors):
    graph = Graph.empty(DIM).extended(vectors[:300])
    graph.extended(vectors[300:310])  # a state that nobody kept
    other = graph.extended(vectors[500:520])
    assert other.count == 320
    assert other.nearest(vectors[510], 1).tolist() == [310]
    assert recall(other, np.concatenate([vectors[:300], vectors[500:520]]), unit(20, seed=7), 20) > ALMOST_ALL


def test_threads_search_while_it_grows(vectors):
    states = [Graph.empty(DIM).extended(vectors[:500])]
    with ThreadPoolExecutor(4) as pool:
        growth = pool.submit(
            lambda: [states.append(states[-1].extended(vectors[i : i + 100])) for i in range(500, 2000, 100)]
        )
        while not growth.done():
            for found in pool.map(lambda row: states[0].nearest(vectors[row], 3), range(0, 500, 50)):
                assert found is None or found.max() < 500
    assert growth.exception() is None
    assert recall(states[-1], vectors, unit(20, seed=8), 20) > ALMOST_ALL


def test_it_comes_back_from_a_file_and_can_grow(graph, vectors, tmp_path):
    file = tmp_path / "graph"
    graph.save(file)
    opened = Graph.opened(file.read_bytes(), graph.rows, dim=DIM, count=2000)
    query = unit(1, seed=9)[0]
    np.testing.assert_array_equal(opened.nearest(query, 30), graph.nearest(query, 30))
    grown = opened.extended(unit(5, seed=10))
    assert (opened.count, grown.count) == (2000, 2005)
    assert grown.nearest(unit(5, seed=10)[3], 1).tolist() == [2003]
    assert grown.without(np.arange(1, 2005)).extended(unit(1, seed=11)).count == 2005


@pytest.mark.parametrize(("dim", "count"), [(DIM + 1, 2000), (DIM, 1999)])
def test_another_graph_is_refused(graph, tmp_path, dim, count):
    graph.save(tmp_path / "graph")
    with pytest.raises(ManifestError, match=r"must have \d+ documents at dim \d+, this one has 2000 at dim 16\. Build"):
        Graph.opened((tmp_path / "graph").read_bytes(), graph.rows, dim=dim, count=count)
    with pytest.raises(ManifestError, match="this one has 9999 at"):
        Graph.opened((tmp_path / "graph").read_bytes(), np.arange(9999), dim=DIM, count=9999)


def test_without_usearch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "usearch", None)
    monkeypatch.delitem(sys.modules, "usearch.index")
    with pytest.raises(MissingExtraError, match=r"needs the package 'usearch'.* pip install 'st-plugins\[hnsw\]'"):
        Graph.empty(DIM)
