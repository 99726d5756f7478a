"""One encoder and what must exist once per encoder: its lock, its thread, its fingerprint."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class SharedEncoder:
    """An encoder that is loaded on first use and serves one caller at a time.

    It is shared by all budgets of one :class:`~langchain_st_plugins.ElasticEmbeddings`. It does not check texts and
    does not touch vectors.

    Args:
        load: Returns the encoder; called once, by the first call that needs it.

    Example:
        >>> shared = SharedEncoder(lambda: st_plugins.load("minilm-elastic"))
        >>> shared.encode("query", ["A text"], layer=3).shape
        (1, 384)
    """

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load
        self._encoder: Any = None
        self._fingerprint: str | None = None
        # Tokenizers can fail with "Already borrowed" when threads share them (transformers#47085). Taking turns costs
        # nothing, because one call uses every core by itself.
        self._lock = threading.Lock()
        # For async callers. On asyncio's default pool a few long calls would keep unrelated work waiting for seconds.
        self.executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="elastic-embeddings")

    def encode(self, kind: str, texts: list[str], **options: Any) -> Any:
        """What ``encode_query`` or ``encode_document`` of the encoder returns.

        Args:
            kind: "query" or "document".
            texts: The texts.
            **options: Passed on as they are; which ones exist is the encoder's business.

        Returns:
            Any: An array (n, width), as the encoder made it.
        """
        with self._lock:
            encoder = self._loaded()
            method = encoder.encode_query if kind == "query" else encoder.encode_document
            return method(texts, **options)

    @property
    def fingerprint(self) -> str:
        """Identity of the encoder's vectors, computed once: an encoder must not change while it is in use."""
        with self._lock:
            if self._fingerprint is None:
                self._fingerprint = _fingerprint(self._loaded())
            return self._fingerprint

    def _loaded(self) -> Any:
        if self._encoder is None:
            self._encoder = self._load()
        return self._encoder


def _fingerprint(encoder: Any) -> str:
    own = getattr(encoder, "fingerprint", None)
    if own is not None:
        return str(own() if callable(own) else own)
    # Here, because both import torch.
    from sentence_transformers import SentenceTransformer

    import st_plugins

    if not isinstance(encoder, SentenceTransformer):
        raise TypeError(
            f"An encoder must be a SentenceTransformer or have a fingerprint, and {type(encoder).__name__} has none. "
            "Give it an attribute fingerprint, a str that changes whenever its vectors do."
        )
    return st_plugins.fingerprint(encoder)
