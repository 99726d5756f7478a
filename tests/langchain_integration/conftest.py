import numpy as np
import pytest

from document_cases import documents
from langchain_st_plugins import ElasticEmbeddings, ElasticRetriever
from langchain_st_plugins.index import ElasticIndex
from toy_encoder import ToyEncoder

TEXTS = [
    "the cat purrs on the warm mat",
    "a bank lends money to farmers",
    "rivers carry water to the sea",
    "the bank of the river floods",
    "students read books about money",
    "a cat hunts at night",
]


@pytest.fixture
def encoder():
    return ToyEncoder()


@pytest.fixture
def embeddings(encoder):
    return ElasticEmbeddings(encoder=encoder)


@pytest.fixture
def texts():
    return list(TEXTS)


@pytest.fixture
def vectors():
    """Of the documents of ``index``."""
    return np.random.default_rng(0).standard_normal((50, 24)).astype(np.float32)


@pytest.fixture
def index(vectors):
    index = ElasticIndex(fingerprint="toy/1", layer=6)
    index.add(documents(50), vectors)
    return index


@pytest.fixture
def retriever(embeddings, texts):
    metadatas = [{"n": i, "money": "money" in text} for i, text in enumerate(texts)]
    return ElasticRetriever.from_texts(texts, embeddings, metadatas, ids=[f"id-{i}" for i in range(len(texts))])
