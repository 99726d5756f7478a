"""Copies of documents, so that what a caller changes later changes nothing that is stored."""

import uuid

from langchain_core.documents import Document


def copied(document: Document) -> Document:
    """A copy with metadata of its own.

    Example:
        >>> document = Document("a cat", metadata={"page": 1})
        >>> copied(document).metadata["page"] = 2
        >>> document.metadata
        {'page': 1}
    """
    return document.model_copy(update={"metadata": dict(document.metadata)})


def with_id(document: Document) -> Document:
    """A copy with metadata of its own, and an id made up where there is none.

    Example:
        >>> with_id(Document("a cat", id="7")).id, len(with_id(Document("a cat")).id)
        ('7', 36)
    """
    return copied(document).model_copy(update={"id": str(uuid.uuid4()) if document.id is None else document.id})


def with_score(document: Document, score: float | None, key: str | None) -> Document:
    """A copy with metadata of its own, and the score among it unless there is no score or no key to put it under.

    Example:
        >>> with_score(Document("a cat", metadata={"page": 1}), 0.5, "score").metadata
        {'page': 1, 'score': 0.5}
    """
    scored = copied(document)
    if score is not None and key is not None:
        scored.metadata[key] = score
    return scored
