import numpy as np
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_st_plugins import ElasticVectorStore
from langchain_st_plugins.budgets import Budget
from langchain_st_plugins.searches import Search, encoded_before
from toy_encoder import exit_layer

QUERIES = ["a cat at night", "who lends money", "water"]


@pytest.fixture
def search(embeddings, texts):
    return Search(ElasticVectorStore.from_texts(texts, embeddings), embeddings, Budget(dim=16, exit="fast"), k=2)


def test_a_search_tells_what_it_did(search):
    documents, report = search.run(QUERIES[0], started=0.0)
    assert len(documents) == 2
    assert [report[name] for name in ("k", "layer", "dim", "exit")] == [2, None, 16, "fast"]
    assert report["exit_layer"] == exit_layer(QUERIES[0], "fast")
    assert report["encode_ms"] > report["search_ms"] > 0


def test_queries_encoded_before_are_not_encoded_again(search, encoder):
    expected = [search.run(query, started=0.0)[0] for query in QUERIES]
    encoder.calls.clear()
    encoded = search.encode([*QUERIES, QUERIES[0], " ", 3])
    assert len(encoder.calls) == 3  # the toy lets each text leave by itself, once
    with encoded_before(encoded):
        found = [search.run(query, started=0.0) for query in QUERIES]
        assert len(encoder.calls) == 3
        search.run("another one", started=0.0)
        assert len(encoder.calls) == 4
    assert [documents for documents, _ in found] == expected
    assert [report["exit_layer"] for _, report in found] == [exit_layer(query, "fast") for query in QUERIES]
    search.run(QUERIES[0], started=0.0)
    assert len(encoder.calls) == 5


def test_one_query_is_not_encoded_before_its_run(search, encoder):
    encoder.calls.clear()
    assert search.encode(["one"]) == {}
    assert encoder.calls == []


def test_a_store_without_scores_has_no_threshold(texts):
    fake = DeterministicFakeEmbedding(size=6)
    store = InMemoryVectorStore.from_texts(texts, fake)
    documents, report = Search(store, fake, Budget(), k=2).run(texts[0], started=0.0)
    assert documents[0].page_content == texts[0]
    assert documents[0].metadata == {}
    assert report["dim"] == 6
    with pytest.raises(ValueError, match="score_threshold needs cosines, and InMemoryVectorStore gives none"):
        Search(store, fake, Budget(), k=2, score_threshold=0.5).run(texts[0], started=0.0)


def test_the_threshold_and_the_key_are_those_of_the_search(search, embeddings):
    all_scores = [d.metadata["score"] for d in Search(search.store, embeddings, Budget(), k=6).run("cat", started=0)[0]]
    assert all_scores == sorted(all_scores, reverse=True)
    some = Search(search.store, embeddings, Budget(), k=6, score_threshold=all_scores[1], score_key="cosine")
    np.testing.assert_array_equal([d.metadata["cosine"] for d in some.run("cat", started=0)[0]], all_scores[:2])
