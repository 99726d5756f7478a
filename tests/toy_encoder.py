"""Encoders without a library: deterministic; one of them is deep and able to leave early, the other keeps tokens."""

import threading
import zlib

import numpy as np

from st_plugins.errors import ExitError, UntrainedSizeError


class ToyEncoder:
    """A bag of hashed words: each layer below the last adds its own error, and no vector has unit length."""

    width, depth, trained_layers = 32, 6, (2, 4, 6)
    fingerprint = "toy/1"

    def __init__(self):
        self.prompts = {"query": "", "document": ""}
        self.exit_fingerprints = {"balanced": "toy/1 balanced", "fast": "toy/1 fast"}
        self.calls = []  # (method, texts, options)
        self.entrance = threading.Lock()  # for one caller at a time; a second one fails
        self.gate = threading.Event()  # cleared: encoding waits
        self.gate.set()

    def encode_query(self, texts, **options):
        return self._encode("query", texts, **options)

    def encode_document(self, texts, **options):
        return self._encode("document", texts, **options)

    def encode_with_exits(self, texts, *, prompt_name, exit, layer=None, **options):
        if exit not in self.exit_fingerprints:
            raise ExitError(f"exit must be one of {sorted(self.exit_fingerprints)}, got {exit!r}.")
        layers = np.array([exit_layer(text, exit, layer) for text in texts])
        rows = [
            self._encode(prompt_name, [text], layer=int(left), exit=exit, **options)[0]
            for text, left in zip(texts, layers, strict=True)
        ]
        return np.stack(rows), layers

    def _encode(self, kind, texts, *, show_progress_bar, layer=None, truncate_dim=None, batch_size=None, exit=None):
        sizes = {"layer": layer, "truncate_dim": truncate_dim, "exit": exit}
        self.calls.append((kind, list(texts), {**sizes, "bar": show_progress_bar}))
        if layer not in (None, *self.trained_layers):
            raise UntrainedSizeError(f"layer must be one of {self.trained_layers}, got {layer}.")
        assert self.entrance.acquire(blocking=False), "two callers at once"
        try:
            assert self.gate.wait(30)
            missing = self.depth - (layer or self.depth)
            vectors = np.stack([_words(f"{kind}:") * 0.1 + sum(map(_words, text.lower().split())) for text in texts])
            errors = np.stack([_words(f"{text}@{layer or self.depth}") for text in texts])
            return (3 * vectors + 0.5 * missing * errors)[:, :truncate_dim]
        finally:
            self.entrance.release()


class ToyTokenEncoder:
    """Late interaction without a library: a unit vector for each word, a little different in queries and documents."""

    def __init__(self):
        self.calls = []  # (method, texts, bar)
        self.entrance = threading.Lock()  # for one caller at a time; a second one fails

    def encode_query(self, texts, *, show_progress_bar):
        return self._encode("query", texts, show_progress_bar)

    def encode_document(self, texts, *, show_progress_bar):
        return self._encode("document", texts, show_progress_bar)

    def _encode(self, kind, texts, bar):
        self.calls.append((kind, list(texts), bar))
        assert self.entrance.acquire(blocking=False), "two callers at once"
        try:
            rows = [np.stack([_words(word) + 0.1 * _words(f"{kind}:") for word in text.split()]) for text in texts]
            return [(row / np.linalg.norm(row, axis=1, keepdims=True)).astype(np.float32) for row in rows]
        finally:
            self.entrance.release()


def exit_layer(text, exit, deepest=None):
    """Where a text leaves: another layer for another text, and earlier under "fast"."""
    index = zlib.crc32(text.encode()) % 3
    return min(ToyEncoder.trained_layers[max(index - (exit == "fast"), 0)], deepest or ToyEncoder.depth)


def _words(word):
    return np.random.default_rng(zlib.crc32(word.encode())).standard_normal(ToyEncoder.width)
