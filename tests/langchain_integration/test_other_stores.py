"""Stores of others. Chroma and Qdrant are played here, by the names of their methods."""

from types import SimpleNamespace

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_st_plugins import ElasticRetriever
from langchain_st_plugins.budgets import Budget
from langchain_st_plugins.other_stores import read_canary, search_by_vector, write_canary
from st_plugins.errors import IndexMismatchError

VECTORS = np.eye(3)[[0, 1]]


class LikeChroma(InMemoryVectorStore):
    def __init__(self, embedding=None, space="l2"):
        super().__init__(embedding)
        self._collection = SimpleNamespace(metadata={"hnsw:space": space, "mine": 1}, modify=self._modify)
        self._collection.configuration = {"hnsw": {"space": space}}
        self.space = space

    def _modify(self, metadata):
        assert not any(key.startswith("hnsw:") for key in metadata)
        self._collection.metadata = metadata

    def similarity_search_by_vector_with_relevance_scores(self, embedding, k, filter=None):
        distances = {"l2": ((VECTORS - embedding) ** 2).sum(1), "cosine": 1 - VECTORS @ embedding}
        distances["odd"] = distances["l2"]
        rows = [(Document(str(i), metadata={"n": i}), float(d)) for i, d in enumerate(distances[self.space])]
        return [row for row in rows if filter is None or row[0].metadata["n"] == filter["n"]][:k]


class LikeQdrant(InMemoryVectorStore):
    collection_name, distance = "c", "Cosine"

    def __init__(self, embedding=None):
        super().__init__(embedding)
        config = SimpleNamespace(metadata=None)
        self.client = SimpleNamespace(
            update_collection=lambda name, metadata: setattr(config, "metadata", metadata),
            get_collection=lambda name: SimpleNamespace(config=config),
        )

    def similarity_search_with_score_by_vector(self, embedding, k):
        return [(Document(str(i)), float(score)) for i, score in enumerate(VECTORS @ embedding)][:k]


@pytest.mark.parametrize(
    ("store", "cosines"),
    [
        (LikeChroma(space="l2"), [0.6, 0.8]),
        (LikeChroma(space="cosine"), [0.6, 0.8]),
        (LikeChroma(space="odd"), [None, None]),
        (LikeQdrant(), [0.6, 0.8]),
    ],
)
def test_scores_become_cosines_where_their_kind_is_known(store, cosines):
    found = search_by_vector(store, np.array([0.6, 0.8, 0.0]), k=2)
    assert [score for _, score in found] == (cosines if None in cosines else pytest.approx(cosines, abs=1e-6))


def test_filters_are_handed_on():
    found = search_by_vector(LikeChroma(), np.array([0.6, 0.8, 0.0]), k=2, filter={"n": 1})
    assert [document.page_content for document, _ in found] == ["1"]


@pytest.mark.parametrize("make", [LikeChroma, LikeQdrant])
def test_a_canary_is_kept_and_checked(make, embeddings, encoder):
    store = make(embeddings)
    assert read_canary(store) is None
    retriever = ElasticRetriever(vectorstore=store)
    retriever.write_canary()
    fingerprint, made, vector = read_canary(store)
    assert (fingerprint, made, vector.shape) == ("toy/1", Budget(), (32,))
    ElasticRetriever(vectorstore=store, embeddings=embeddings.with_budget(layer=2))
    with pytest.raises(IndexMismatchError, match="dim: index=32, embeddings=8"):
        ElasticRetriever(vectorstore=store, embeddings=embeddings.with_budget(dim=8))
    encoder.fingerprint = "toy/2"
    with pytest.raises(IndexMismatchError, match="fingerprint: index=toy/1, embeddings=toy/2"):
        ElasticRetriever(vectorstore=store, embeddings=type(embeddings)(encoder=encoder))


def test_the_canary_tells_models_of_one_name_apart():
    store = LikeQdrant(DeterministicFakeEmbedding(size=6))
    ElasticRetriever(vectorstore=store).write_canary()
    with pytest.raises(IndexMismatchError, match="width: index=6, embeddings=7"):
        ElasticRetriever(vectorstore=store, embeddings=DeterministicFakeEmbedding(size=7))


def test_what_else_the_collection_says_stays(embeddings):
    store = LikeChroma(embeddings)
    write_canary(store, "f", Budget(), np.ones(2))
    assert store._collection.metadata["mine"] == 1


def test_other_stores_keep_no_canary(embeddings):
    with pytest.raises(TypeError, match="Only Chroma and Qdrant keep metadata .*, got InMemoryVectorStore"):
        ElasticRetriever(vectorstore=InMemoryVectorStore(embeddings)).write_canary()
