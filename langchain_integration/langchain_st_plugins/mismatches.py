"""Whether an index and embeddings belong together: by fingerprint and width, and by a canary.

A canary is a text whose vector is kept with the index, so that another model is noticed even where all names are equal.
"""

import warnings
from typing import Literal

import numpy as np
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langchain_st_plugins.budgets import Budget
from langchain_st_plugins.embedding_calls import document_vectors, fingerprint_of
from langchain_st_plugins.embeddings import ElasticEmbeddings
from langchain_st_plugins.index import ElasticIndex
from langchain_st_plugins.other_stores import read_canary
from st_plugins.errors import IndexMismatchError

OnMismatch = Literal["raise", "warn"]

TEXT = "The canary sings as long as the air in the mine is what it was yesterday."
# Measured on all-MiniLM-L6-v2: another layer gives 0.28 to 0.39, another prompt 0.94, eight bits 0.93.
_OTHER_MODEL = 0.8
_SAME_MODEL = 0.98


def canary_vector(embeddings: Embeddings, made: Budget) -> np.ndarray:
    """What the embeddings make of the canary, as a document of an index made with this layer, dim and exit: (width,).

    Example:
        >>> from langchain_st_plugins import ElasticEmbeddings
        >>> canary_vector(ElasticEmbeddings(model="minilm-elastic"), Budget(dim=128)).shape
        (128,)
    """
    return document_vectors(embeddings, [TEXT], made, show_progress=False)[0]


def check_same_space(
    index: ElasticIndex, embeddings: Embeddings | None, *, dim: int | None = None, on_mismatch: OnMismatch = "raise"
) -> None:
    """Compare what an index was made with, and what will query it.

    Args:
        index: The index.
        embeddings: Of the queries; None if their model has been compared before.
        dim: Width of the queries; None for that of the documents.
        on_mismatch: Whether a difference is an error or a warning.

    Raises:
        IndexMismatchError: If the models differ, or the queries are wider than the documents.
    """
    differences = []
    fingerprint = index.fingerprint if embeddings is None else fingerprint_of(embeddings)
    if index.fingerprint != fingerprint:
        differences.append(f"fingerprint: index={index.fingerprint}, embeddings={fingerprint}")
    if dim is not None and index.width is not None and dim > index.width:
        differences.append(f"dim: index={index.width}, embeddings={dim}")
    if differences:
        _report("; ".join(differences), on_mismatch)


def check_other_store(store: VectorStore, embeddings: Embeddings, *, dim: int | None) -> None:
    """Compare embeddings with the canary that a store of another kind kept, if it kept one.

    Args:
        store: Any.
        embeddings: Of the queries.
        dim: Width of the queries; None for that of the documents.

    Raises:
        IndexMismatchError: If the documents were embedded by another model, or have another width.
    """
    kept = read_canary(store)
    if kept is None:
        return
    fingerprint, made, vector = kept
    found = fingerprint_of(embeddings)
    if fingerprint != found:
        _report(f"fingerprint: index={fingerprint}, embeddings={found}", "raise")
    if dim not in (None, len(vector)):
        _report(f"dim: index={len(vector)}, embeddings={dim}", "raise")
    if not isinstance(embeddings, ElasticEmbeddings):  # whose fingerprint covers the weights
        check_canary(vector, canary_vector(embeddings, made))


def check_canary(kept: np.ndarray, now: np.ndarray, *, on_mismatch: OnMismatch = "raise") -> None:
    """Compare the canary an index kept with today's.

    Args:
        kept: (width,).
        now: (width,).
        on_mismatch: Whether another model is an error or a warning.

    Raises:
        IndexMismatchError: If they have another width, or a cosine below 0.8. Between 0.8 and 0.98 it warns.
    """
    if kept.shape != now.shape:
        _report(f"width: index={len(kept)}, embeddings={len(now)}", on_mismatch)
        return
    cosine = float(kept @ now / max(np.linalg.norm(kept) * np.linalg.norm(now), 1e-12))
    if not cosine >= _OTHER_MODEL:  # NaN is another model too
        _report(
            f"canary: its vector in the index and the one of the embeddings have a cosine of {cosine:.3f}", on_mismatch
        )
    elif cosine < _SAME_MODEL:
        warnings.warn(
            f"The canary of the index and the one of the embeddings have a cosine of {cosine:.3f}: a prompt, a "
            "precision or the weights may have changed. If results are poor, build the index again.",
            stacklevel=4,
        )


def _report(differences: str, on_mismatch: OnMismatch) -> None:
    message = (
        "Index and embeddings must be of one model, and queries no wider than the documents, but these differ: "
        f"{differences}. Open the index with the embeddings it was built with, or build it again."
    )
    if on_mismatch == "raise":
        raise IndexMismatchError(message)
    warnings.warn(message, stacklevel=4)
