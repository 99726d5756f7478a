"""One search of a retriever with everything decided: embed the query, ask the store, tell what it took."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langchain_st_plugins.budgets import Budget
from langchain_st_plugins.document_copies import with_score
from langchain_st_plugins.embedding_calls import query_vectors
from langchain_st_plugins.other_stores import search_by_vector
from langchain_st_plugins.texts import is_text
from langchain_st_plugins.vector_store import ElasticVectorStore


class Encoded(NamedTuple):
    """A query that was embedded together with others: (dim,), the layer it left at, its share of the time."""

    vector: np.ndarray
    layer: int | None
    seconds: float


@dataclass(frozen=True)
class Search:
    """What to do with a query.

    Args:
        store: Where to look.
        embeddings: Of the query.
        budget: What embedding it may cost.
        k: Documents.
        fetch_k: Length of the shortlist of a store of ours; None takes the store's.
        filter: In the language of the store, or None.
        score_threshold: Raw cosine a document must reach, or None.
        score_key: Where the cosine is put in the metadata, or None.

    Example:
        >>> from langchain_st_plugins import ElasticEmbeddings
        >>> embeddings = ElasticEmbeddings(model="minilm-elastic")
        >>> store = ElasticVectorStore.from_texts(["Cats purr.", "Banks lend money."], embeddings)
        >>> documents, report = Search(store, embeddings, Budget(layer=3), k=1).run("pets", started=0.0)
        >>> documents[0].page_content, report["layer"]
        ('Cats purr.', 3)
    """

    store: VectorStore
    embeddings: Embeddings
    budget: Budget
    k: int
    fetch_k: int | None = None
    filter: Any = None
    score_threshold: float | None = None
    score_key: str | None = "score"

    def run(self, query: str, *, started: float) -> tuple[list[Document], dict[str, Any]]:
        """The documents, and what it took to find them since ``started``, on the clock of ``perf_counter``."""
        encoded = (_ENCODED.get() or {}).get(self._key(query))
        if encoded is None:
            vectors, layers = query_vectors(self.embeddings, [query], self.budget)
            layer = None if layers is None else int(layers[0])
            encoded = Encoded(vectors[0], layer, time.perf_counter() - started)
        searching = time.perf_counter()
        found = self._found(encoded.vector)
        searched = time.perf_counter()
        return [with_score(document, score, self.score_key) for document, score in found], {
            "k": self.k,
            **self.budget._replace(dim=len(encoded.vector))._asdict(),
            "exit_layer": encoded.layer,
            "encode_ms": round(encoded.seconds * 1000, 3),
            "search_ms": round((searched - searching) * 1000, 3),
        }

    def encode(self, queries: Sequence[Any]) -> dict[Any, Encoded]:
        """Embed several queries in one call. Those that are no queries are left to run, and to fail, by themselves."""
        texts = list(dict.fromkeys(query for query in queries if is_text(query)))
        if len(texts) < 2:
            return {}
        started = time.perf_counter()
        vectors, layers = query_vectors(self.embeddings, texts, self.budget)
        seconds = (time.perf_counter() - started) / len(texts)
        left = [None] * len(texts) if layers is None else layers.tolist()
        return {
            self._key(text): Encoded(vector, layer, seconds)
            for text, vector, layer in zip(texts, vectors, left, strict=True)
        }

    def _key(self, query: str) -> Any:
        return id(self.embeddings), self.budget, query

    def _found(self, vector: np.ndarray) -> Sequence[tuple[Document, float | None]]:
        if isinstance(self.store, ElasticVectorStore):
            found: Sequence[tuple[Document, float | None]] = self.store.search_vectors(
                vector[np.newaxis], k=self.k, filter=self.filter, fetch_k=self.fetch_k
            )[0]
        else:
            found = search_by_vector(self.store, vector, k=self.k, filter=self.filter)
        if self.score_threshold is None:
            return found
        if any(score is None for _, score in found):
            raise ValueError(
                f"score_threshold needs cosines, and {type(self.store).__name__} gives none that can be told from "
                "other scores. Leave it out, or use ElasticVectorStore, Chroma or Qdrant."
            )
        return [(document, score) for document, score in found if score is not None and score >= self.score_threshold]


_ENCODED: ContextVar[Mapping[Any, Encoded] | None] = ContextVar("encoded queries", default=None)


@contextmanager
def encoded_before(queries: Mapping[Any, Encoded]) -> Iterator[None]:
    """Inside, searches do not embed these again; threads and tasks that are started inside neither."""
    token = _ENCODED.set(queries)
    try:
        yield
    finally:
        _ENCODED.reset(token)
