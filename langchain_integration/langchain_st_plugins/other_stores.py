"""Vector stores of others, searched by vector: Chroma and Qdrant with their scores as cosines, the rest without scores.

Chroma and Qdrant can also keep a canary in the metadata of a collection. Both are known by the names of their methods
and attributes; nothing of theirs is imported.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore

from langchain_st_plugins.budgets import Budget

_KEY = "st_plugins_canary"


def search_by_vector(
    store: VectorStore, vector: np.ndarray, *, k: int, filter: Any = None
) -> list[tuple[Document, float | None]]:
    """The k documents a store finds for a unit vector, with raw cosines where they can be known.

    Args:
        store: The store; its documents are unit vectors.
        vector: (d,).
        k: How many.
        filter: In the store's own language; None leaves it out.

    Returns:
        list: Documents with cosines, or with None if the store gives no scores, or scores of an unknown kind.

    Example:
        >>> from langchain_core.embeddings import DeterministicFakeEmbedding
        >>> from langchain_core.vectorstores import InMemoryVectorStore
        >>> store = InMemoryVectorStore.from_texts(["a"], DeterministicFakeEmbedding(size=4))
        >>> search_by_vector(store, np.ones(4) / 2, k=1)
        [(Document(id='...', metadata={}, page_content='a'), None)]
    """
    options = {} if filter is None else {"filter": filter}
    query = vector.tolist()
    found: Sequence[tuple[Document, float]]
    if _is_chroma(store):
        found = store.similarity_search_by_vector_with_relevance_scores(query, k=k, **options)
        space = _chroma_space(store)
        return [(document, _cosine(distance, space)) for document, distance in found]
    if _is_qdrant(store):
        found = store.similarity_search_with_score_by_vector(query, k=k, **options)
        is_cosine = str(getattr(store, "distance", "")).lower().endswith(("cosine", "dot"))
        return [(document, score if is_cosine else None) for document, score in found]
    return [(document, None) for document in store.similarity_search_by_vector(query, k=k, **options)]


def write_canary(store: VectorStore, fingerprint: str, made: Budget, vector: np.ndarray) -> None:
    """Keep a canary with a collection.

    Args:
        store: A Chroma or Qdrant store.
        fingerprint: Of the model that embedded its documents.
        made: Their layer, dim and exit.
        vector: The canary of that model (width,).

    Raises:
        TypeError: If the store is of another kind.
    """
    content = {"fingerprint": fingerprint, **made._asdict(), "vector": [float(value) for value in vector]}
    entry = {_KEY: json.dumps(content)}
    if _is_chroma(store):
        collection: Any = store._collection  # its only way to the metadata
        # The distance is fixed when a collection is made, and may not be named again.
        kept = {key: value for key, value in (collection.metadata or {}).items() if not key.startswith("hnsw:")}
        collection.modify(metadata={**kept, **entry})
    elif _is_qdrant(store):
        store.client.update_collection(store.collection_name, metadata=entry)
    else:
        raise TypeError(
            f"Only Chroma and Qdrant keep metadata with a collection, got {type(store).__name__}. "
            "Use ElasticVectorStore, or compare fingerprints yourself."
        )


def read_canary(store: VectorStore) -> tuple[str, Budget, np.ndarray] | None:
    """What :func:`write_canary` kept: fingerprint, layer, dim and exit, vector; None if there is nothing."""
    metadata: Any = None
    if _is_chroma(store):
        metadata = store._collection.metadata
    elif _is_qdrant(store):
        metadata = store.client.get_collection(store.collection_name).config.metadata
    if not metadata or _KEY not in metadata:
        return None
    content = json.loads(metadata[_KEY])
    made = Budget(content["layer"], content["dim"], content["exit"])
    return content["fingerprint"], made, np.array(content["vector"], dtype=np.float32)


def _is_chroma(store: VectorStore) -> bool:
    return hasattr(store, "similarity_search_by_vector_with_relevance_scores") and hasattr(store, "_collection")


def _is_qdrant(store: VectorStore) -> bool:
    return hasattr(store, "similarity_search_with_score_by_vector") and hasattr(store, "collection_name")


def _chroma_space(store: Any) -> str:
    configuration = getattr(store._collection, "configuration", None) or {}
    for kind in ("hnsw", "spann"):
        if configuration.get(kind):
            return str(configuration[kind].get("space"))
    return ""


def _cosine(distance: float, space: str) -> float | None:
    """Of unit vectors whose distance Chroma measured."""
    if space == "l2":  # squared
        return 1 - distance / 2
    return 1 - distance if space in ("cosine", "ip") else None
