"""Documents in a file, one line of JSON each, read when they are asked for."""

import json
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from langchain_core.documents import Document

from st_plugins.errors import ManifestError


class StoredDocuments(Sequence[Document]):
    """The documents that :func:`write_documents` wrote. Opening reads no document; a search reads those it returns.

    Args:
        file: The lines.
        ends: (n,) where each line ends, in bytes.

    Raises:
        ManifestError: If the file is not as long as ``ends`` says.

    Example:
        >>> ends = write_documents(Path("two.jsonl"), [Document("a", id="1"), Document("b", id="2")])
        >>> StoredDocuments(Path("two.jsonl"), ends)[1].page_content
        'b'
    """

    def __init__(self, file: Path, ends: np.ndarray) -> None:
        self._ends = ends
        self._all: list[Document] | None = None
        size = int(ends[-1]) if len(ends) else 0
        if file.stat().st_size != size:
            raise ManifestError(f"{file} must have {size} bytes, it has {file.stat().st_size}. Build the index again.")
        with file.open("rb") as lines:  # an empty file cannot be mapped
            self._lines: Any = mmap.mmap(lines.fileno(), 0, access=mmap.ACCESS_READ) if size else b""

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, row: int) -> Document: ...

    @overload
    def __getitem__(self, row: slice) -> list[Document]: ...

    def __getitem__(self, row: int | slice) -> Document | list[Document]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        if self._all is not None:
            return self._all[row]
        start = int(self._ends[row - 1]) if row else 0
        return _document(self._lines[start : int(self._ends[row])])

    def __iter__(self) -> Iterator[Document]:
        return iter(self.loaded())

    def loaded(self) -> list[Document]:
        """All of them, read once and kept."""
        if self._all is None:
            self._all = [self[row] for row in range(len(self))]
        return self._all


def write_documents(file: Path, documents: Sequence[Document]) -> np.ndarray:
    """Write one line of JSON per document.

    Args:
        file: Is written anew.
        documents: n documents that JSON can hold.

    Returns:
        np.ndarray: (n,) int64, where each line ends, in bytes.

    Raises:
        TypeError: If JSON cannot hold one, because of its metadata most likely; the message names it.
    """
    ends, end = np.zeros(len(documents), dtype=np.int64), 0
    with file.open("wb") as lines:
        for row, document in enumerate(documents):
            content = {"id": document.id, "page_content": document.page_content, "metadata": document.metadata}
            try:
                line = json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
            except (TypeError, ValueError) as error:
                raise TypeError(
                    f"A document must be what JSON can hold, but {document.id!r} is not ({error}). "
                    "Put a str or a number into its metadata."
                ) from None
            end += lines.write(line + b"\n")
            ends[row] = end
    return ends


def _document(line: bytes) -> Document:
    try:
        content = json.loads(line)
        return Document(content["page_content"], id=content["id"], metadata=content["metadata"])
    except (ValueError, KeyError, TypeError):
        raise ManifestError(f"A stored document is damaged: {line[:80]!r}. Build the index again.") from None
