import threading
import zlib

import numpy as np
import pytest

from langchain_st_plugins import ElasticEmbeddings
from st_plugins.errors import UntrainedSizeError


class ToyEncoder:
    """A bag of hashed words: each layer below the last adds its own error, and no vector has unit length."""

    width, depth, trained_layers = 32, 6, (2, 4, 6)
    fingerprint = "toy/1"

    def __init__(self):
        self.calls = []  # (method, texts, options)
        self.entrance = threading.Lock()  # for one caller at a time; a second one fails
        self.gate = threading.Event()  # cleared: encoding waits
        self.gate.set()

    def encode_query(self, texts, **options):
        return self._encode("query", texts, **options)

    def encode_document(self, texts, **options):
        return self._encode("document", texts, **options)

    def _encode(self, kind, texts, *, show_progress_bar, layer=None, truncate_dim=None, batch_size=None):
        self.calls.append((kind, list(texts), {"layer": layer, "truncate_dim": truncate_dim, "bar": show_progress_bar}))
        if layer not in (None, *self.trained_layers):
            raise UntrainedSizeError(f"layer must be one of {self.trained_layers}, got {layer}.")
        assert self.entrance.acquire(blocking=False), "two callers at once"
        try:
            assert self.gate.wait(30)
            missing = self.depth - (layer or self.depth)
            vectors = np.stack([_words(f"{kind}:") * 0.1 + sum(map(_words, text.lower().split())) for text in texts])
            errors = np.stack([_words(f"{text}@{layer}") for text in texts])
            return (3 * vectors + 0.5 * missing * errors)[:, :truncate_dim]
        finally:
            self.entrance.release()


def _words(word):
    return np.random.default_rng(zlib.crc32(word.encode())).standard_normal(ToyEncoder.width)


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
