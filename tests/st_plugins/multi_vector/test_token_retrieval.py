import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import reference
from st_plugins.errors import ShapeError, SizeError
from st_plugins.multi_vector import TokenRetrieval


def drawn(texts, width=6, longest=9):
    lengths = torch.randint(1, longest, (texts,)).tolist()
    return [normalize(torch.randn(length, width), dim=-1) for length in lengths]


def scores_of(hits):
    return {hit["corpus_id"]: hit["score"] for hit in hits}


def golden():
    """Documents A, B, C whose similarities with two query tokens are their coordinates."""
    documents = [[[0.9, 0.1], [0.2, 0.3]], [[0.6, 0.8]], [[0.5, 0.4], [0.1, 0.7]]]
    return TokenRetrieval(list(map(np.array, documents))), [np.eye(2)]


def test_three_documents_by_hand():
    retrieval, queries = golden()
    assert scores_of(retrieval.search(queries, k_prime=2)[0]) == pytest.approx({0: 0.8, 1: 0.7, 2: 0.65})
    # All five tokens: the mean of MaxSim, and another order.
    assert scores_of(retrieval.search(queries, k_prime=5)[0]) == pytest.approx({0: 0.6, 1: 0.7, 2: 0.6})
    assert [hit["corpus_id"] for hit in retrieval.search(queries, k=1, k_prime=5)[0]] == [1]


def test_by_z_the_tokens_that_found_nothing_do_not_count():
    retrieval, queries = golden()
    found = scores_of(retrieval.search(queries, k_prime=2, impute=False)[0])
    assert found == pytest.approx({0: 0.9, 1: 0.7, 2: 0.7})


def test_with_all_tokens_it_is_mean_maxsim():
    documents, queries = drawn(20), drawn(4)
    found = TokenRetrieval(documents).search(queries, k=20)
    for query, hits in zip(queries, found, strict=True):
        exact = [reference.maxsim(query.tolist(), document.tolist()) / len(query) for document in documents]
        assert scores_of(hits) == pytest.approx(dict(enumerate(exact)), abs=1e-6)


def test_imputed_scores_are_never_below_and_come_nearer():
    documents, queries = drawn(20), drawn(4)
    retrieval = TokenRetrieval(documents)
    gaps = []
    for k_prime in (5, 20, 60):
        gap = []
        for query, hits in zip(queries, retrieval.search(queries, k=20, k_prime=k_prime), strict=True):
            for row, score in scores_of(hits).items():
                gap.append(score - reference.maxsim(query.tolist(), documents[row].tolist()) / len(query))
        assert min(gap) > -1e-6
        gaps.append(np.mean(gap))
    assert gaps[0] > gaps[1] > gaps[2]


def test_by_z_it_is_the_hosts_training_score():
    scoring = pytest.importorskip("sentence_transformers.multi_vector_encoder.scoring.xtr")
    documents, query = drawn(10), drawn(1)[0]
    padded = torch.nn.utils.rnn.pad_sequence(documents, batch_first=True)
    mask = padded.abs().sum(-1) > 0
    expected = scoring.xtr_scores(query[None], padded[None], documents_mask=mask[None], top_k=7)[0]
    found = scores_of(TokenRetrieval(documents).search([query], k=10, k_prime=7, impute=False)[0])
    assert found == pytest.approx({row: expected[row].item() for row in found}, abs=1e-6)
    assert all(expected[row] == 0 for row in range(10) if row not in found)


def test_an_index_that_finds_less_is_taken_at_its_word():
    class Two:
        def add(self, vectors):
            self.count = len(vectors)

        def search(self, vectors, k):
            return np.array([[0.9, 0.4, -5.0]] * len(vectors)), np.array([[0, 2, -1]] * len(vectors))

    retrieval = TokenRetrieval([np.eye(2), np.eye(2)], index=Two())
    assert retrieval.index.count == 4
    assert scores_of(retrieval.search([np.eye(2)], k_prime=3)[0]) == pytest.approx({0: 0.9, 1: 0.4})


def test_a_query_token_that_found_nothing_changes_no_order():
    class First:
        def add(self, vectors):
            pass

        def search(self, vectors, k):
            rows = np.array([[0, 1]] + [[-1, -1]] * (len(vectors) - 1))
            return np.where(rows < 0, -3.4e38, [[0.9, 0.4]]), rows

    retrieval = TokenRetrieval([np.eye(2)[:1], np.eye(2)[1:]], index=First())
    assert scores_of(retrieval.search([np.eye(2)], k_prime=2)[0]) == pytest.approx({0: 0.45, 1: 0.2})


def test_nothing_finds_nothing():
    assert TokenRetrieval([]).search(drawn(2)) == [[], []]
    assert TokenRetrieval(drawn(3)).search([]) == []


def test_what_cannot_be_searched_is_refused():
    retrieval = TokenRetrieval(drawn(3))
    with pytest.raises(SizeError, match="needs k and k_prime of at least 1, got 1 and 0"):
        retrieval.search(drawn(1), k=1, k_prime=0)
    with pytest.raises(ShapeError, match=r"of shape \(tokens, 6\) for each text, got \(2, 5\) at row 0"):
        retrieval.search([torch.ones(2, 5)])
