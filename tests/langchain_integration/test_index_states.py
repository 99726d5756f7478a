import numpy as np
from langchain_core.documents import Document

from langchain_st_plugins.graphs import Graph
from langchain_st_plugins.index_states import IndexState, cut


def documents(*names):
    return [Document(name, id=name) for name in names]


def test_an_old_state_sees_nothing_of_a_new_one():
    old = IndexState.of(documents("a", "b"), np.eye(2, 4, dtype=np.float32))
    old.prefix(2)
    new = old.extended(documents("c", "d"), np.full((2, 4), 0.5, dtype=np.float32))
    assert (old.count, new.count) == (2, 4)
    assert [document.id for document in new.documents] == ["a", "b", "c", "d"]
    assert old.matching({}).tolist() == [0, 1]
    assert old.prefix(2).shape == (2, 2)
    np.testing.assert_allclose(new.prefix(2)[2:], np.full((2, 2), 0.5**0.5), atol=1e-6)
    assert old.without(["c"]) is old
    assert new.without(["c"]).count == 3
    assert old.without(["a"]).count == 1


def test_places_are_those_of_the_rows_after_every_change():
    state = IndexState.of(documents("a"), np.ones((1, 2), dtype=np.float32))
    assert state.places == {"a": 0}
    state = state.extended(documents("b", "c"), np.ones((2, 2), dtype=np.float32)).without(["a"])
    state = state.extended(documents("a"), np.ones((1, 2), dtype=np.float32))
    assert state.places == {"b": 0, "c": 1, "a": 2}


def test_cut_rows_equal_those_of_the_prefix():
    vectors = np.random.default_rng(0).standard_normal((9, 6)).astype(np.float32)
    state = IndexState.of(documents(*"abcdefghi"), vectors)
    rows = np.array([1, 4, 8])
    for dim in (2, 6):
        np.testing.assert_array_equal(cut(vectors[rows], dim), state.prefix(dim)[rows])


def test_a_graph_goes_with_its_documents():
    vectors = np.eye(4, dtype=np.float32)
    state = IndexState.of(documents(*"abcd"), vectors)
    assert state.with_graph(None) is state
    assert state.places["d"] == 3
    graphed = state.with_graph(Graph.empty(4).extended(vectors))
    assert graphed.places is state.places
    assert graphed.without(["b"]).graph.nearest(vectors[3], 1).tolist() == [2]
    assert graphed.extended(documents("e"), vectors[:1]).graph is None  # its owner makes one that fits
