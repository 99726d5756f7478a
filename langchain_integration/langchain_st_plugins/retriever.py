"""A LangChain retriever whose depth and width are chosen per query."""

import contextvars
import time
from collections.abc import Iterable, Sequence
from typing import Any, Self

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import run_in_executor
from pydantic import ConfigDict, Field, StrictFloat, StrictStr

from langchain_st_plugins.budgets import Budget
from langchain_st_plugins.embeddings import ElasticEmbeddings
from langchain_st_plugins.index import ElasticIndex, Filter
from langchain_st_plugins.texts import check_texts
from st_plugins.errors import IndexMismatchError

_EVENT = "elastic_retrieval"


class ElasticRetriever(BaseRetriever):
    """Retrieves from an index in memory: documents embedded once, the budget spent per query.

    ``invoke(query, k=3, layer=2, dim=128)`` overrides ``.bind``, which overrides ``configurable_fields``, which
    override the fields here, which override the defaults of ``embeddings``; None means "not given". A smaller dim
    compares with the first coordinates of the documents. Another layer than the documents' is for models trained to
    align layers (``ElasticLoss``); an elastic model refuses layers it was not trained for. With ``exit`` each query
    leaves at the layer it needs; a layer given without an exit means that layer. There is no persistence, and ``batch``
    encodes one query at a time.

    What a call used and cost can be read in two places. The run's metadata has ``ls_layer`` (None: all layers),
    ``ls_dim``, ``ls_exit`` and ``ls_k``, known when it starts. The custom event ``"elastic_retrieval"`` follows with
    ``layer``, ``dim``, ``exit``, ``k``, ``exit_layer`` (where the query left; None if nobody said), ``encode_ms``
    (waiting for other calls included) and ``search_ms``; a callback handler gets it in ``on_custom_event``,
    ``astream_events`` yields it as ``on_custom_event``.

    Args:
        index: The documents. Made by :meth:`from_documents` or :meth:`from_texts`.
        embeddings: Of the same model as the index.
        k: Documents per query.
        layer: Depth of the query.
        dim: Width of the query, at most the documents'.
        exit: Lets queries leave early: a policy of the model, or a cosine like 0.98.
        filter: Decides before the ranking which documents take part: a function of the document, or a dict of the
            metadata values it must have.
        score_threshold: Raw cosine in [-1, 1] that a document must reach.
        score_key: Where the raw cosine is put in the metadata of the returned copies; None leaves it out.

    Raises:
        IndexMismatchError: If the index was built with another model, or is narrower than the queries will be.

    Example:
        >>> embeddings = ElasticEmbeddings(model="minilm-elastic")
        >>> retriever = ElasticRetriever.from_texts(["Cats purr.", "Banks lend money."], embeddings, k=1)
        >>> retriever.invoke("pets", dim=128)
        [Document(id='...', metadata={'score': 0...}, page_content='Cats purr.')]
    """

    # An option that does not exist must be an error; the host's default is to ignore it.
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    # Public fields all: configurable_fields rebuilds the retriever from them and from nothing else.
    index: ElasticIndex
    embeddings: ElasticEmbeddings
    k: int = Field(default=4, ge=1)
    layer: int | None = Field(default=None, ge=1)
    dim: int | None = Field(default=None, ge=1)
    exit: StrictStr | StrictFloat | None = None
    filter: Filter | None = None
    score_threshold: float | None = None
    score_key: str | None = "score"

    def __init__(self, **fields: Any) -> None:  # as pydantic's own
        super().__init__(**fields)
        # Not in a validator: pydantic would turn the error into a ValidationError.
        self._check_same_space()

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Document],
        embeddings: ElasticEmbeddings,
        *,
        show_progress: bool | None = None,
        **fields: Any,  # of this class; unknown ones are refused by it
    ) -> Self:
        """Embed documents at the size of ``embeddings``, normally the full one, and retrieve from them.

        Args:
            documents: The documents; their ``id`` is kept, or made up.
            embeddings: Embeds the documents now and the queries later.
            show_progress: Show a bar while embedding; None takes the field of ``embeddings``.
            **fields: ``k`` and the other arguments of the class.

        Returns:
            Self: A retriever with an index of its own.
        """
        documents = list(documents)
        for position, document in enumerate(documents):
            if not isinstance(document, Document):
                raise TypeError(
                    f"Every document must be a Document, but the one at position {position} is "
                    f"{type(document).__name__}. Use from_texts for texts."
                )
        index = ElasticIndex(fingerprint=embeddings.fingerprint, layer=embeddings.layer, dim=embeddings.dim)
        # What can be refused is refused before the embedding, which may take hours.
        index.check_ids(documents)
        retriever = cls(index=index, embeddings=embeddings, **fields)
        texts = [document.page_content for document in documents]
        index.add(documents, embeddings.encode(texts, show_progress=show_progress))
        retriever._check_same_space()  # again: now the width of the documents is known
        return retriever

    @classmethod
    def from_texts(
        cls,
        texts: Sequence[str],
        embeddings: ElasticEmbeddings,
        metadatas: Sequence[dict[str, Any]] | None = None,
        ids: Sequence[str] | None = None,
        *,
        show_progress: bool | None = None,
        **fields: Any,  # of this class; unknown ones are refused by it
    ) -> Self:
        """As :meth:`from_documents`, from texts with their metadata and ids.

        Raises:
            ValueError: If ``metadatas`` or ``ids`` has another length than ``texts``.
        """
        check_texts(texts)
        for name, values in (("metadatas", metadatas), ("ids", ids)):
            if values is not None and len(values) != len(texts):
                raise ValueError(f"{name} must have one entry per text, got {len(values)} for {len(texts)} texts.")
        documents = [
            Document(text, metadata=metadatas[i] if metadatas else {}, id=ids[i] if ids else None)
            for i, text in enumerate(texts)
        ]
        return cls.from_documents(documents, embeddings, show_progress=show_progress, **fields)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        layer: int | None = None,
        dim: int | None = None,
        exit: str | float | None = None,
        filter: Filter | None = None,
        score_threshold: float | None = None,
    ) -> list[Document]:
        # Every option by name: the host would swallow a misspelled one.
        documents, report = self._retrieve(
            time.perf_counter(), query, k, Budget.checked(layer, dim, exit), filter, score_threshold
        )
        dispatch_custom_event(_EVENT, report, config={"callbacks": run_manager.get_child()})
        return documents

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        layer: int | None = None,
        dim: int | None = None,
        exit: str | float | None = None,
        filter: Filter | None = None,
        score_threshold: float | None = None,
    ) -> list[Document]:
        budget = Budget.checked(layer, dim, exit)
        run = contextvars.copy_context().run  # a filter may read the caller's context
        started = time.perf_counter()
        documents, report = await run_in_executor(
            self.embeddings.executor, run, self._retrieve, started, query, k, budget, filter, score_threshold
        )
        await adispatch_custom_event(_EVENT, report, config={"callbacks": run_manager.get_child()})
        return documents

    def _retrieve(
        self,
        started: float,
        query: str,
        k: int | None,
        asked: Budget,
        filter: Filter | None,
        score_threshold: float | None,
    ) -> tuple[list[Document], dict[str, Any]]:
        """The documents, and what it took to find them."""
        budget, k = self._budget(asked), _first(k, self.k)
        vectors, layers = self.embeddings.encode_with_exits(
            [query], kind="query", **budget._asdict(), show_progress=False
        )
        encoded = time.perf_counter()
        found = self.index.search(vectors[0], k=k, filter=_first(filter, self.filter))
        searched = time.perf_counter()
        threshold = _first(score_threshold, self.score_threshold)
        documents = [
            self._scored(document, score) for document, score in found if threshold is None or score >= threshold
        ]
        return documents, {
            "k": k,
            **budget._replace(dim=vectors.shape[1])._asdict(),
            "exit_layer": None if layers is None else int(layers[0]),
            "encode_ms": round((encoded - started) * 1000, 3),
            "search_ms": round((searched - encoded) * 1000, 3),
        }

    def _budget(self, asked: Budget) -> Budget:
        field = Budget(self.layer, self.dim, self.exit)
        return asked.over(field).over(self.embeddings.budget("query")).over(Budget(dim=self.index.dim))

    def _scored(self, document: Document, score: float) -> Document:
        added = {} if self.score_key is None else {self.score_key: score}
        return document.model_copy(update={"metadata": {**document.metadata, **added}})

    def _get_ls_params(self, **kwargs: Any) -> dict[str, Any]:  # the host passes the arguments of invoke
        budget = self._budget(Budget(kwargs.get("layer"), kwargs.get("dim"), kwargs.get("exit")))
        return {
            **super()._get_ls_params(**kwargs),
            "ls_embedding_provider": type(self.embeddings).__name__,
            "ls_embedding_model": self.embeddings.model or type(self.embeddings.encoder).__name__,
            "ls_k": _first(kwargs.get("k"), self.k),
            "ls_layer": budget.layer,
            "ls_dim": _first(budget.dim, self.index.width),
            "ls_exit": budget.exit,
        }

    def _check_same_space(self) -> None:
        index, embeddings = self.index, self.embeddings
        dim = self._budget(Budget()).dim
        differences = []
        if index.fingerprint != embeddings.fingerprint:
            differences.append(f"fingerprint: index={index.fingerprint}, embeddings={embeddings.fingerprint}")
        if dim is not None and index.width is not None and dim > index.width:
            differences.append(f"dim: index={index.width}, embeddings={dim}")
        if differences:
            raise IndexMismatchError(
                "Index and embeddings must be of one model, and queries no wider than the documents, but these differ: "
                f"{'; '.join(differences)}. Open the index with the embeddings it was built with, or build it again."
            )


def _first(*values: Any) -> Any:
    """The first value that was given."""
    return next((value for value in values if value is not None), None)
