"""LangChain's own suites; they are what users of the interfaces may rely on."""

import pytest
from langchain_tests.integration_tests import EmbeddingsIntegrationTests, RetrieversIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from langchain_st_plugins import ElasticEmbeddings, ElasticRetriever


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
        return {"index": self.built.index, "embeddings": self.built.embeddings}

    @property
    def retriever_query_example(self):
        return "where does the cat sleep"
