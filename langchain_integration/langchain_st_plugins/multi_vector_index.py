"""Documents with a vector for each token, found in two stages; for MultiVectorRetriever."""

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document

from langchain_st_plugins.document_copies import copied, with_id
from langchain_st_plugins.rankings import check_count
from langchain_st_plugins.shared_encoder import SharedEncoder, Turns, check_encoder
from langchain_st_plugins.texts import check_documents, check_ids, check_texts
from st_plugins.errors import IndexMismatchError, ShapeError

if TYPE_CHECKING:
    from st_plugins.multi_vector import MultiVectorSearch


class MultiVectorIndex:
    """Documents and their token embeddings, in memory.

    Safe for threads: calls to the encoder take turns, searches and additions too. Documents cannot be replaced or
    deleted.

    Args:
        encoder: A ``MultiVectorEncoder``, or any object whose ``encode_query(texts, show_progress_bar=...)`` and
            ``encode_document(texts, show_progress_bar=...)`` return one array (T_i, D) for each text.
        search: An empty one of your choice, with an index of another library for instance; None makes one of the
            defaults when the first documents come.

    Raises:
        ValueError: If the encoder cannot encode.
        IndexMismatchError: If the search holds something.

    Example:
        >>> class Letters:  # stands for a MultiVectorEncoder
        ...     def encode_document(self, texts, **options):
        ...         return [torch.eye(128)[[ord(letter) for letter in text]] for text in texts]
        ...
        ...     encode_query = encode_document
        >>> index = MultiVectorIndex(Letters())
        >>> index.add([Document("cat"), Document("dog")])
        ['...', '...']
        >>> index.find("tic", k=1, candidates=2, carving_threshold=None)
        [(Document(id='...', metadata={}, page_content='cat'), 2.0)]
    """

    def __init__(self, encoder: Any, *, search: "MultiVectorSearch | None" = None) -> None:
        check_encoder(encoder, "Pass a MultiVectorEncoder.")
        if search is not None and len(search):
            raise IndexMismatchError(
                f"The search must be empty, for its rows are the documents; it holds {len(search)}. Pass a new one."
            )
        self.encoder = encoder
        self._shared = SharedEncoder(lambda: encoder, turns=Turns.of(encoder))
        self._search = search
        self._documents: list[Document] = []
        self._ids: set[str] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._documents)

    def __repr__(self) -> str:
        return f"MultiVectorIndex({len(self)} documents, encoder={type(self.encoder).__name__})"

    @property
    def executor(self) -> Executor:
        """The one thread on which async calls run."""
        return self._shared.executor

    def add(
        self,
        documents: Iterable[Document],
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        show_progress: bool = False,
    ) -> list[str]:
        """Embed and add documents, as :meth:`MultiVectorRetriever.add_documents` says."""
        documents = [with_id(document) for document in check_documents(documents, ids)]
        texts = [document.page_content for document in documents]
        # What can be refused is refused before the embedding, which may take hours.
        check_ids(documents)
        check_texts(texts)
        self._check_new(documents)
        if batch_size is not None:
            check_count("batch_size", batch_size)
        size = batch_size or max(len(texts), 1)
        for start in range(0, len(texts), size):
            batch = slice(start, start + size)
            tokens, _ = self._shared.encode("document", texts[batch], show_progress_bar=show_progress)
            with self._lock:
                self._check_new(documents[batch])  # again: another thread may have added them meanwhile
                self._take(documents[batch], tokens)
        return [str(document.id) for document in documents]

    def find(
        self, query: str, *, k: int, candidates: int, carving_threshold: float | None
    ) -> list[tuple[Document, float]]:
        """The k best documents, copies of them, and their MaxSim; as :meth:`MultiVectorSearch.search`."""
        check_texts([query])
        tokens, _ = self._shared.encode("query", [query], show_progress_bar=False)
        with self._lock:
            if self._search is None:
                return []
            hits = self._search.search(tokens, k, candidates=candidates, carving_threshold=carving_threshold)[0]
            return [(copied(self._documents[hit["corpus_id"]]), hit["score"]) for hit in hits]

    def _take(self, documents: list[Document], tokens: Any) -> None:
        if len(tokens) != len(documents):  # every row behind them would belong to another document
            raise ShapeError(
                f"The encoder must return one array per text, got {len(tokens)} for {len(documents)} texts."
            )
        if self._search is None:
            # Here, because it imports torch.
            from st_plugins.modules import FixedDimensionalEncoder
            from st_plugins.multi_vector import MultiVectorSearch

            self._search = MultiVectorSearch(FixedDimensionalEncoder(tokens[0].shape[-1]))
        self._search.add(tokens)
        self._documents += documents
        self._ids.update(str(document.id) for document in documents)

    def _check_new(self, documents: Sequence[Document]) -> None:
        for position, document in enumerate(documents):
            if document.id in self._ids:
                raise ValueError(
                    f"Documents cannot be replaced, but the id at position {position}, {document.id!r}, is there. "
                    "Leave the document out, give it another id, or build the index again."
                )
