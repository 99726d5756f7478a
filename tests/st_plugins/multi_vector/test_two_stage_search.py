import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import reference
from st_plugins.errors import InputError, ShapeError, SizeError
from st_plugins.modules import FixedDimensionalEncoder
from st_plugins.multi_vector import ExactIndex, MultiVectorSearch, carve_balls


def drawn(texts, width=8, longest=9):
    lengths = torch.randint(1, longest, (texts,)).tolist()
    return [normalize(torch.randn(length, width), dim=-1) for length in lengths]


@pytest.fixture
def search():
    search = MultiVectorSearch(FixedDimensionalEncoder(8, k_sim=3, d_proj=None, repetitions=10))
    search.documents = drawn(60)
    search.add(search.documents[:25])
    search.add(search.documents[25:])
    return search


def test_with_all_candidates_it_is_the_full_search(search):
    queries = drawn(5)
    assert len(search) == 60
    for query, hits in zip(queries, search.search(queries, k=60, candidates=60), strict=True):
        exact = [reference.maxsim(query.tolist(), document.tolist()) for document in search.documents]
        assert [hit["corpus_id"] for hit in hits] == np.argsort(-np.array(exact)).tolist()
        assert np.allclose([hit["score"] for hit in hits], sorted(exact, reverse=True), atol=1e-5)


def test_few_candidates_find_most_of_the_best(search):
    queries = drawn(20)
    best = [[hit["corpus_id"] for hit in hits] for hits in search.search(queries, k=5, candidates=60)]
    found = [[hit["corpus_id"] for hit in hits] for hits in search.search(queries, k=5, candidates=20)]
    recall = np.mean([len(set(some) & set(all_)) / 5 for some, all_ in zip(found, best, strict=True)])
    assert 1 > recall > 20 / 60 + 0.3  # well above what chance finds, and less than everything


def test_the_index_alone_decides_who_is_ranked(search):
    class Two:
        def add(self, vectors):
            self.dtype, self.shape = vectors.dtype, vectors.shape

        def search(self, vectors, k):
            return np.zeros((len(vectors), k)), np.array([[7, 3] + [-1] * (k - 2)] * len(vectors))

    other = MultiVectorSearch(search.encoder, index=Two())
    other.add(search.documents)
    assert (other.index.dtype, other.index.shape) == (np.float32, (60, 640))
    assert [{hit["corpus_id"] for hit in hits} for hits in other.search(drawn(2), k=5, candidates=10)] == [{3, 7}] * 2


def test_carving_ranks_by_the_sums(search):
    query = drawn(1, longest=2)[0].repeat(3, 1)
    exact, carved = (search.search([query], k=60, candidates=60, carving_threshold=t)[0] for t in (None, 0.7))
    assert len(carve_balls(query.numpy(), 0.7)) == 1
    assert [hit["corpus_id"] for hit in carved] == [hit["corpus_id"] for hit in exact]
    assert search.search(drawn(1), k=3, carving_threshold=2.0)[0]


def test_half_precision_stays_in_memory_and_finds_the_same(search):
    half = MultiVectorSearch(search.encoder)
    half.add([document.half() for document in search.documents])
    queries = drawn(3)
    for some, others in zip(half.search(queries, k=1), search.search(queries, k=1), strict=True):
        assert some[0]["score"] == pytest.approx(others[0]["score"], abs=5e-3)


def test_nothing_finds_nothing(search):
    assert search.search([]) == []
    empty = MultiVectorSearch(search.encoder)
    empty.add([])
    assert isinstance(empty.index, ExactIndex)
    assert empty.search(drawn(2)) == [[], []]


def test_what_cannot_be_searched_is_refused(search):
    with pytest.raises(SizeError, match="needs 1 <= k <= candidates, got 10 and 5"):
        search.search(drawn(1), k=10, candidates=5)
    with pytest.raises(ShapeError, match=r"of shape \(tokens, 8\) for each text, got \(2, 5\) at row 0"):
        search.search([torch.ones(2, 5)])
    with pytest.raises(InputError, match="has no tokens"):
        search.add([torch.ones(0, 8)])
    assert len(search) == 60
