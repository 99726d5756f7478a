"""A LangChain retriever for late-interaction models, which keep a vector for each token."""

from collections.abc import Iterable, Sequence
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field

from langchain_st_plugins.budgets import first_given
from langchain_st_plugins.document_copies import with_score
from langchain_st_plugins.embedding_calls import run_beside
from langchain_st_plugins.multi_vector_index import MultiVectorIndex
from langchain_st_plugins.rankings import check_count
from langchain_st_plugins.texts import documents_of


class MultiVectorRetriever(BaseRetriever):
    """Retrieves with a ``MultiVectorEncoder`` (ColBERT): one vector a text finds candidates, exact MaxSim ranks them.

    MUVERA's search in two stages, :class:`st_plugins.multi_vector.MultiVectorSearch`. ``metadata["score"]`` is the
    MaxSim of query and document, a sum over the tokens of the query: scores of one query can be compared, those of
    different queries cannot. ``invoke(query, k=3, candidates=500)`` overrides ``.bind``, which overrides
    ``configurable_fields``, which override the fields here. Documents stay in memory, all of their tokens; they cannot
    be replaced, deleted, filtered or saved: for that there is :class:`ElasticVectorStore`, with a vector a text.

    Args:
        index: The documents. :meth:`from_documents` and :meth:`from_texts` make one.
        k: Documents per query.
        candidates: How many MaxSim ranks, at least k. What is not among them is missed; as many as there are documents
            make the search exact.
        carving_threshold: Rank by sums of alike tokens of the query, see :func:`st_plugins.multi_vector.carve_balls`;
            None ranks exactly.
        score_key: Where MaxSim is put in the metadata of the returned copies; None leaves it out.

    Raises:
        SizeError: If ``candidates`` is below k.

    Example:
        >>> class Letters:  # stands for a MultiVectorEncoder
        ...     def encode_document(self, texts, **options):
        ...         return [torch.eye(128)[[ord(letter) for letter in text]] for text in texts]
        ...
        ...     encode_query = encode_document
        >>> retriever = MultiVectorRetriever.from_texts(["cat", "dog"], Letters(), k=1)
        >>> retriever.invoke("tic")
        [Document(id='...', metadata={'score': 2.0}, page_content='cat')]
    """

    # An option that does not exist must be an error; the host's default is to ignore it.
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    # Public fields all: configurable_fields rebuilds the retriever from them and from nothing else.
    index: MultiVectorIndex
    k: int = Field(default=4, ge=1)
    candidates: int = Field(default=200, ge=1)
    carving_threshold: float | None = None
    score_key: str | None = "score"

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Document],
        encoder: Any,
        *,
        show_progress: bool = False,
        **fields: Any,  # of this class; unknown ones are refused by it
    ) -> Self:
        """Embed documents and retrieve from them.

        Args:
            documents: The documents; their ``id`` is kept, or made up.
            encoder: A ``MultiVectorEncoder``, or what :class:`MultiVectorIndex` says.
            show_progress: Show a bar while embedding.
            **fields: ``k`` and the other arguments of the class.

        Returns:
            Self: A retriever with an index of its own.
        """
        retriever = cls(index=MultiVectorIndex(encoder), **fields)
        retriever.add_documents(documents, show_progress=show_progress)
        return retriever

    @classmethod
    def from_texts(
        cls,
        texts: Sequence[str],
        encoder: Any,
        metadatas: Sequence[dict[str, Any]] | None = None,
        ids: Sequence[str | None] | None = None,
        **options: Any,  # of from_documents
    ) -> Self:
        """As :meth:`from_documents`, from texts with their metadata and ids.

        Raises:
            ValueError: If ``metadatas`` or ``ids`` has another length than ``texts``.
        """
        return cls.from_documents(documents_of(texts, metadatas, ids), encoder, **options)

    def add_documents(
        self,
        documents: Iterable[Document],
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        show_progress: bool = False,
    ) -> list[str]:
        """Embed and add documents.

        Args:
            documents: The documents. Without an id they get one.
            ids: In place of the documents' own.
            batch_size: Embed and add so many at a time; None all at once. What was added stays if a later batch fails.
            show_progress: Show a bar while embedding.

        Returns:
            list[str]: Their ids.

        Raises:
            TypeError, ValueError, InputError: If one is no Document, an id comes twice or is there already, a text is
                blank, or ``batch_size`` is less than 1; nothing was embedded then.
            ShapeError: If the encoder does not return one array (T_i, D) for each text.
        """
        return self.index.add(documents, ids=ids, batch_size=batch_size, show_progress=show_progress)

    async def aadd_documents(self, documents: Iterable[Document], **options: Any) -> list[str]:
        """As :meth:`add_documents`, on the encoder's own thread."""
        return await run_beside(self.index, lambda: self.add_documents(documents, **options))

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        candidates: int | None = None,
        carving_threshold: float | None = None,
    ) -> list[Document]:
        # Every option by name: the host would swallow a misspelled one.
        return self._find(query, k, candidates, carving_threshold)

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        candidates: int | None = None,
        carving_threshold: float | None = None,
    ) -> list[Document]:
        return await run_beside(self.index, self._find, query, k, candidates, carving_threshold)

    def _find(
        self, query: str, k: int | None, candidates: int | None, carving_threshold: float | None
    ) -> list[Document]:
        wanted = first_given(k, self.k)
        check_count("k", wanted)
        found = self.index.find(
            query,
            k=wanted,
            candidates=first_given(candidates, self.candidates),
            carving_threshold=first_given(carving_threshold, self.carving_threshold),
        )
        return [with_score(document, score, self.score_key) for document, score in found]

    def _get_ls_params(self, **kwargs: Any) -> dict[str, Any]:  # the host passes the arguments of invoke
        return {
            **super()._get_ls_params(**kwargs),
            "ls_embedding_provider": type(self.index.encoder).__name__,
            "ls_k": first_given(kwargs.get("k"), self.k),
            "ls_candidates": first_given(kwargs.get("candidates"), self.candidates),
        }
