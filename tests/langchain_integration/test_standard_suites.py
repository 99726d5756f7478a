"""LangChain's own suites; they are what users of the interfaces may rely on."""

import pytest
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests

from langchain_st_plugins import ElasticEmbeddings, ElasticRetriever, ElasticVectorStore


class _ToyEmbeddings:
    @pytest.fixture(autouse=True)
    def use(self, encoder):
        self.encoder = encoder

    @property
    def embeddings_class(self):
        return ElasticEmbeddings

    @property
    def embedding_model_params(self):
        return {"encoder": self.encoder, "dim": 16}


class TestEmbeddingsUnit(_ToyEmbeddings, EmbeddingsUnitTests):
    pass


class TestEmbeddingsIntegration(_ToyEmbeddings, EmbeddingsIntegrationTests):
    pass


class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def use(self, embeddings, texts):
        self.built = ElasticRetriever.from_texts(texts, embeddings)

    @property
    def retriever_constructor(self):
        return ElasticRetriever

    @property
    def retriever_constructor_params(self):
        return {"vectorstore": self.built.vectorstore}

    @property
    def retriever_query_example(self):
        return "where does the cat sleep"


class TestVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self):
        return ElasticVectorStore(self.get_embeddings())


class TestVectorStoreWithAFunnel(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self):
        return ElasticVectorStore(self.get_embeddings(), shortlist_dim=2, fetch_k=1)


class TestVectorStoreWithAGraph(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self):
        return ElasticVectorStore(self.get_embeddings(), hnsw_from=1, fetch_k=1)
