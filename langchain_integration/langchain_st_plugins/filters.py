"""Which documents may take part in a search. Decided before the ranking, so that k documents come back if k may."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from langchain_core.documents import Document

Filter = Callable[[Document], bool] | dict[str, Any]


def matching(documents: Sequence[Document], filter: Filter) -> np.ndarray:
    """Positions of the documents that pass, ascending.

    Args:
        documents: n documents.
        filter: A function of the document, or the metadata values it must have.

    Returns:
        np.ndarray: (m,) integers.

    Raises:
        TypeError: If ``filter`` is neither a function nor a dict.

    Example:
        >>> matching([Document("a", metadata={"n": 1}), Document("b", metadata={"n": 2})], {"n": 2}).tolist()
        [1]
    """
    passes: Callable[[Document], bool]
    if isinstance(filter, dict):
        values = filter.items()

        def has_all(document: Document) -> bool:
            metadata = document.metadata
            return all(key in metadata and metadata[key] == value for key, value in values)

        passes = has_all
    elif callable(filter):
        passes = filter
    else:
        raise TypeError(f"filter must be a function of a Document or a dict of metadata, got {type(filter).__name__}.")
    return np.array([i for i, document in enumerate(documents) if passes(document)], dtype=np.int64)
