"""Refuses texts and documents that cannot be embedded, by position, before any work starts."""

from collections.abc import Iterable, Sequence
from typing import Any

from langchain_core.documents import Document

from st_plugins.errors import InputError


def check_texts(texts: Sequence[str], *, blank: bool = False) -> None:
    """Do nothing if ``texts`` is a list of texts, each with a visible character unless ``blank`` ones may be there.

    Raises:
        TypeError: If it is one text, or no list at all, or an item is no str.
        InputError: If an item is blank and may not be.

    Example:
        >>> check_texts(["A text", " "])
        Traceback (most recent call last):
        st_plugins.errors.InputError: Every text must have a visible character, but the one at position 1 is blank. ...
    """
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Sequence):
        raise TypeError(
            f"texts must be a list of str, got {type(texts).__name__}. Write [text] for one text, list(texts) for many."
        )
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(
                f"Every text must be a str, but the one at position {position} is {type(text).__name__}. "
                "Leave it out or convert it."
            )
        if not blank and not is_text(text):
            raise InputError(
                f"Every text must have a visible character, but the one at position {position} is blank. Leave it out."
            )


def is_text(text: Any) -> bool:
    """Whether it is a str with a visible character."""
    return isinstance(text, str) and bool(text.strip())


def documents_of(
    texts: Iterable[str], metadatas: Sequence[dict[str, Any]] | None, ids: Sequence[str | None] | None
) -> list[Document]:
    """Documents of texts, their metadata and ids.

    Raises:
        TypeError, InputError: As :func:`check_texts`.
        ValueError: If there is not one entry per text.

    Example:
        >>> documents_of(["A text"], [{"page": 1}], ["7"])
        [Document(id='7', metadata={'page': 1}, page_content='A text')]
    """
    texts = list(texts) if isinstance(texts, Iterable) and not isinstance(texts, str | bytes) else texts
    check_texts(texts)
    for name, values in (("metadatas", metadatas), ("ids", ids)):
        if values is not None and len(values) != len(texts):
            raise ValueError(f"{name} must have one entry per text, got {len(values)} for {len(texts)} texts.")
    return [
        Document(text, metadata=metadatas[i] if metadatas else {}, id=ids[i] if ids else None)
        for i, text in enumerate(texts)
    ]


def check_documents(documents: Iterable[Document], ids: Sequence[str | None] | None = None) -> list[Document]:
    """The documents as a list, with these ids in place of their own where ids are given.

    Raises:
        TypeError: If one is no Document.
        ValueError: If there is not one id per document.
    """
    documents = list(documents)
    for position, document in enumerate(documents):
        if not isinstance(document, Document):
            raise TypeError(
                f"Every document must be a Document, but the one at position {position} is "
                f"{type(document).__name__}. Use from_texts or add_texts for texts."
            )
    if ids is None:
        return documents
    if len(ids) != len(documents):
        raise ValueError(f"ids must have one entry per document, got {len(ids)} for {len(documents)} documents.")
    return [document.model_copy(update={"id": own}) for document, own in zip(documents, ids, strict=True)]


def check_ids(documents: Sequence[Document]) -> None:
    """Do nothing if no two of these documents have the same id.

    Raises:
        ValueError: If two have; which one should stay cannot be known.

    Example:
        >>> check_ids([Document("a", id="1"), Document("b", id="1")])
        Traceback (most recent call last):
        ValueError: Every id must come once, but the one at position 1, '1', came before. ...
    """
    seen: set[Any] = set()
    for position, document in enumerate(documents):
        if document.id is not None and document.id in seen:
            raise ValueError(
                f"Every id must come once, but the one at position {position}, {document.id!r}, came before. "
                "Give that document another id, or none."
            )
        seen.add(document.id)


def check_id_list(ids: Sequence[str]) -> None:
    """Do nothing if it is a list of ids.

    Raises:
        TypeError: If it is one str.

    Example:
        >>> check_id_list("12")
        Traceback (most recent call last):
        TypeError: ids must be a list of str, got '12'. Write ['12'].
    """
    if isinstance(ids, str):
        raise TypeError(f"ids must be a list of str, got {ids!r}. Write [{ids!r}].")
