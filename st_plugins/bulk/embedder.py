"""Embeds texts of which some may be broken: the stateful worker of a bulk job."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from st_plugins.backends import open_encoder
from st_plugins.bulk.settings import JobSettings
from st_plugins.bulk.token_lengths import token_lengths
from st_plugins.errors import BulkError

_PROBE = "A text"


@dataclass(frozen=True)
class EmbeddedTexts:
    """Vectors, and what went wrong.

    Args:
        vectors: (N, dim) float32, finite; zeros in rows with an error.
        errors: N times None, or why there is no vector.
        truncated: Texts that were longer than the model reads, and were cut.

    Example:
        >>> EmbeddedTexts(np.zeros((1, 2)), ["the text is blank"], truncated=0).errors
        ['the text is blank']
    """

    vectors: np.ndarray
    errors: list[str | None]
    truncated: int


class BulkEmbedder:
    """An encoder that loses no batch to a bad text. Made once per worker, called with one batch after the other.

    Ray Data's ``map_batches`` takes the class as it is: called with columns, it returns them with two more,
    ``embedding`` and ``error``. Daft and Spark call :meth:`embed`; ``examples/engines`` shows all three. A text that is
    no string, blank, not valid Unicode, or whose vector is not finite gets an error and no vector, and the others of
    its batch get theirs. If the encoder itself is broken, and cannot embed even a short text any more, its exception is
    raised.

    Args:
        settings: The model and how it embeds.
        text: The column with texts, for calls.

    Raises:
        StPluginsError: If the model cannot do what is asked, which is tried on one text, or is not so wide.

    Example:
        >>> embedder = BulkEmbedder(JobSettings("minilm-elastic"))
        >>> embedded = embedder.embed(["A text", "", None])
        >>> embedded.vectors.shape, embedded.errors[1:]
        ((3, 384), ['the text is blank', 'no text: NoneType'])
    """

    def __init__(self, settings: JobSettings, *, text: str = "text") -> None:
        self.settings = settings
        self._text = text
        self._encoder = open_encoder(
            settings.model,
            backend=settings.backend,
            device=settings.device,
            threads=settings.threads,
            precision=settings.precision,
        )
        self._batches_itself = hasattr(self._encoder, "exit_fingerprints")  # an OnnxEncoder does, on all cores
        self.dim = self._encode([_PROBE]).shape[1]
        if settings.truncate_dim not in (None, self.dim):
            raise BulkError(
                f"truncate_dim must be at most {self.dim}, as wide as the vectors, got {settings.truncate_dim}."
            )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all that changes a vector of this job; a model and its float32 export share it."""
        import st_plugins  # here, because it imports torch, which an export does without

        encoder, exit = self._encoder, self.settings.exit
        is_export = self._batches_itself
        identity = encoder.fingerprint if is_export else st_plugins.fingerprint(encoder)
        if exit is not None:
            exit = encoder.exit_fingerprints[exit] if is_export else st_plugins.fingerprint(encoder, exit=exit)
        parts = [identity, self.settings.layer, self.settings.truncate_dim, exit, self.settings.task]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch as columns, with the columns ``embedding`` (N, dim) and ``error`` added.

        Args:
            batch: Columns by name, each of N values.

        Returns:
            dict: The same and two more. The vector of a row with an error is zeros.
        """
        embedded = self.embed(list(batch[self._text]))
        return {**batch, "embedding": embedded.vectors, "error": np.array(embedded.errors, dtype=object)}

    def embed(self, texts: Sequence[Any]) -> EmbeddedTexts:
        """The vectors of texts.

        Args:
            texts: N strings, or anything else, which gets an error.
        """
        errors = [_refusal(text) for text in texts]
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        good = np.array([place for place, error in enumerate(errors) if error is None], dtype=np.int64)
        lengths, is_cut = token_lengths(self._encoder, [texts[place] for place in good], task=self.settings.task)
        for rows in self._batches(lengths):
            places = good[rows]
            vectors[places] = self._checked([texts[place] for place in places], places, errors)
        return EmbeddedTexts(vectors, errors, int(is_cut.sum()))

    def _batches(self, lengths: np.ndarray) -> Iterator[np.ndarray]:
        """Rows that go through the model together: of similar length, as many as the token budget allows."""
        order = np.argsort(-lengths, kind="stable")  # the longest first: what does not fit in memory fails at once
        while len(order):
            most = len(order)
            if not self._batches_itself:
                most = max(self.settings.token_budget // max(int(lengths[order[0]]), 1), 1)
            yield order[:most]
            order = order[most:]

    def _checked(self, texts: list[str], places: np.ndarray, errors: list[str | None]) -> np.ndarray:
        """Vectors (B, dim); where there is none, zeros and an entry in ``errors``."""
        try:
            vectors = self._encode(texts)
        except Exception as error:  # whatever an encoder raises on a text belongs to that text
            if len(texts) > 1:
                half = len(texts) // 2
                first = self._checked(texts[:half], places[:half], errors)
                return np.concatenate([first, self._checked(texts[half:], places[half:], errors)])
            self._encode([_PROBE])  # raises if it is not the text's fault
            errors[places[0]] = f"{type(error).__name__}: {error}"
            return np.zeros((1, self.dim), dtype=np.float32)
        for row in np.flatnonzero(~np.isfinite(vectors).all(axis=1)):
            errors[places[row]] = "the vector is not finite"
            vectors[row] = 0
        return vectors

    def _encode(self, texts: list[str]) -> np.ndarray:
        settings = self.settings
        asked = {"layer": settings.layer, "truncate_dim": settings.truncate_dim, "exit": settings.exit}
        options = {name: value for name, value in asked.items() if value is not None}
        if not self._batches_itself:
            options["batch_size"] = len(texts)
        encode = self._encoder.encode_query if settings.task == "query" else self._encoder.encode_document
        return np.asarray(encode(texts, show_progress_bar=False, **options), dtype=np.float32)


def _refusal(text: Any) -> str | None:
    """Why something is not embedded, or None."""
    if not isinstance(text, str):
        return f"no text: {type(text).__name__}"
    if not text.strip():
        return "the text is blank"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"the text is not valid Unicode: a lone surrogate at character {error.start}"
    return None
