import numpy as np
import pytest
from langchain_core.documents import Document

from document_cases import documents, ids
from langchain_st_plugins.index import ElasticIndex
from st_plugins.errors import SizeError


def far_and_near(count, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, 24), dtype=np.float32)
    return vectors * np.exp(-np.arange(24, dtype=np.float32) / 6)


@pytest.mark.parametrize("dim", [None, 8])
def test_a_graph_is_kept_from_so_many_documents_on_and_through_every_change(dim):
    """Added in parts, replaced, deleted: always nearly the result of an index without a graph."""
    vectors, plain, graphed = far_and_near(900), ElasticIndex(fingerprint="t"), ElasticIndex(fingerprint="t")
    graphed.keep_graph(300, dim=dim)
    queries = far_and_near(15, seed=1)

    def check(documents_now):
        assert len(graphed) == len(plain) == documents_now
        assert (graphed.state.graph is None) == (documents_now < 300)
        assert graphed.state.graph is None or graphed.state.graph.count == documents_now
        shares = []
        for query in queries:
            expected = {document.id: score for document, score in plain.search(query, k=10)}
            found = {
                document.id: score for document, score in graphed.search(query, k=10, shortlist_dim=dim, fetch_k=60)
            }
            assert len(found) == min(10, documents_now)
            shares.append(len(expected.keys() & found.keys()) / len(expected))
            for identity in expected.keys() & found.keys():
                assert found[identity] == pytest.approx(expected[identity], abs=1e-6)
        assert np.mean(shares) > (0.99 if dim is None else 0.95)

    for index in (plain, graphed):
        index.add(documents(299), vectors[:299])
    check(299)
    for index in (plain, graphed):
        index.add(documents(700)[299:], vectors[299:700])
    check(700)
    for index in (plain, graphed):  # ids 600 to 699 are replaced, with other vectors
        index.add(documents(800)[600:], vectors[700:900])
    check(800)
    for index in (plain, graphed):
        index.delete([str(i) for i in range(0, 400, 2)])
    check(600)
    for index in (plain, graphed):
        index.delete([str(i) for i in range(400, 750)])
    check(250)


def test_a_graph_may_come_later_and_go_again(index, vectors):
    index.keep_graph(50)
    assert index.state.graph.count == 50
    assert ids(index.search(vectors[3], k=2, fetch_k=5))[0] == "3"
    index.keep_graph(50, dim=4)
    assert index.state.graph.dim == 4
    index.keep_graph(None)
    assert index.state.graph is None


@pytest.mark.parametrize(
    ("count", "dim", "error", "message"),
    [
        (0, None, ValueError, "count must be an integer of at least 1, got 0"),
        ("many", None, TypeError, "count must be an integer of at least 1, got 'many'"),
        (10, 25, SizeError, "The dim of a graph must be from 1 to 24, the width of the documents, got 25"),
    ],
)
def test_bad_graphs_are_refused(index, count, dim, error, message):
    with pytest.raises(error, match=message):
        index.keep_graph(count, dim=dim)


def test_a_graph_that_is_refused_leaves_the_index_as_it_was(index, vectors):
    with pytest.raises(SizeError, match="dim of a graph must be from 1 to 24"):
        index.keep_graph(10, dim=25)
    index.add([Document("new", id="new")], vectors[:1])
    assert index.state.graph is None


def test_the_first_documents_tell_that_a_graph_is_too_wide(vectors):
    index = ElasticIndex(fingerprint="toy/1")
    index.keep_graph(1000, dim=25)
    with pytest.raises(SizeError, match=r"from 1 to 24, the width of the documents, got 25\. Choose a smaller one"):
        index.add([Document("new", id="new")], vectors[:1])
    assert len(index) == 0


def no_memory(graph, vectors):
    raise MemoryError


def test_an_addition_whose_graph_fails_adds_nothing(index, vectors, monkeypatch):
    index.keep_graph(50)
    index.get(["0"])  # so that places are known
    with monkeypatch.context() as broken:
        broken.setattr(type(index.state.graph), "extended", no_memory)
        with pytest.raises(MemoryError):
            index.add([Document("new", id="new")], vectors[:1])
    assert (len(index), index.get(["new"])) == (50, [])
    index.add([Document("other", id="other")], vectors[:1])
    assert [document.page_content for document in index.get(["new", "other"])] == ["other"]
