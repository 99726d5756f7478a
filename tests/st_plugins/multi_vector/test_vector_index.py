import numpy as np
import pytest

from st_plugins.errors import IndexMismatchError, InputError, ShapeError
from st_plugins.modules import FixedDimensionalEncoder
from st_plugins.multi_vector import ExactIndex, MultiVectorSearch, TokenRetrieval, vector_index


@pytest.mark.parametrize("at_once", [1, 10**6])
def test_it_finds_what_sorting_all_scores_finds(at_once, monkeypatch):
    monkeypatch.setattr(vector_index, "_SCORES_AT_ONCE", at_once)
    random = np.random.default_rng(0)
    vectors, queries = random.integers(-2, 3, (50, 3)), random.integers(-2, 3, (7, 3))  # with many equal scores
    index = ExactIndex(3)
    for start in range(0, 50, 20):
        index.add(vectors[start : start + 20])
    assert len(index) == 50
    for k in (1, 13, 50, 80):
        scores, rows = index.search(queries, k)
        for query, found, at in zip(queries, scores, rows, strict=True):
            everything = sorted(range(50), key=lambda row: (-(vectors[row] @ query), row))[:k]
            assert at.tolist() == everything
            assert found.tolist() == [vectors[row] @ query for row in everything]


def test_an_empty_index_finds_nothing():
    scores, rows = ExactIndex(2).search(np.ones((3, 2)), 5)
    assert scores.shape == rows.shape == (3, 0)


def test_another_width_is_refused():
    with pytest.raises(ShapeError, match=r"ExactIndex\(width=2\) needs vectors of shape \(n, 2\), got \(1, 3\)"):
        ExactIndex(2).add(np.ones((1, 3)))


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_cannot_be_ranked_is_refused(number):
    index = ExactIndex(2)
    index.add(np.eye(2))
    for use in (index.add, lambda vectors: index.search(vectors, 1)):
        with pytest.raises(InputError, match="Vectors of an ExactIndex must be finite, and some hold NaN or infinity"):
            use(np.array([[0.0, number]]))


def test_an_index_that_holds_something_is_refused():
    class Faiss:
        ntotal = 3

    index = ExactIndex(2)
    index.add(np.ones((1, 2)))
    with pytest.raises(
        IndexMismatchError, match=r"index must be empty, for its rows are the documents; it holds 1. Pass a new"
    ):
        MultiVectorSearch(FixedDimensionalEncoder(2), index=index)
    with pytest.raises(IndexMismatchError, match="it holds 3"):
        TokenRetrieval([np.ones((1, 2))], index=Faiss())
