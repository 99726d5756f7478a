import pytest

from langchain_st_plugins import ElasticEmbeddings
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
