"""A LangChain retriever whose depth and width are chosen per query."""

import functools
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
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from pydantic import ConfigDict, Field, StrictFloat, StrictStr

from langchain_st_plugins import other_stores
from langchain_st_plugins.budgets import Budget, first_given
from langchain_st_plugins.embedding_calls import check_budget, fingerprint_of, made_with, model_name, run_beside
from langchain_st_plugins.embeddings import ElasticEmbeddings
from langchain_st_plugins.mismatches import canary_vector, check_other_store, check_same_space
from langchain_st_plugins.searches import Encoded, Search, encoded_before
from langchain_st_plugins.texts import documents_of
from langchain_st_plugins.vector_store import ElasticVectorStore

_EVENT = "elastic_retrieval"


class ElasticRetriever(BaseRetriever):
    """Retrieves from a vector store: documents embedded once, the budget spent per query.

    ``invoke(query, k=3, layer=2, dim=128)`` overrides ``.bind``, which overrides ``configurable_fields``, which
    override the fields here, which override the defaults of ``embeddings``; None means "not given". A smaller dim
    compares with the first coordinates of the documents. Another layer than the documents' is for models trained to
    align layers (``ElasticLoss``); an elastic model refuses layers it was not trained for. With ``exit`` each query
    leaves at the layer it needs; a layer given without an exit means that layer. ``batch`` encodes all of its queries
    in one call.

    The store may be anyone's. One of another kind gets queries of its own width at any layer or exit, and a filter in
    its own language; scores come from Chroma and Qdrant only. Those two can also keep a canary (:meth:`write_canary`).

    What a call used and cost can be read in two places. The run's metadata has ``ls_layer`` (None: all layers),
    ``ls_dim``, ``ls_exit`` and ``ls_k``, known when it starts. The custom event ``"elastic_retrieval"`` follows with
    ``layer``, ``dim``, ``exit``, ``k``, ``exit_layer`` (where the query left; None if nobody said), ``encode_ms``
    (waiting for other calls included; in a batch, its share) and ``search_ms``; a callback handler gets it in
    ``on_custom_event``, ``astream_events`` yields it as ``on_custom_event``.

    Args:
        vectorstore: The documents. :meth:`from_documents` and :meth:`from_texts` make one.
        embeddings: Of the queries; None takes those of the store.
        k: Documents per query.
        fetch_k: Length of the shortlist; None takes the store's.
        layer: Depth of the query.
        dim: Width of the query, at most the documents'.
        exit: Lets queries leave early: a policy of the model, or a cosine like 0.98.
        filter: Decides before the ranking which documents take part: a function of the document, or a dict of the
            metadata values it must have.
        score_threshold: Raw cosine in [-1, 1] that a document must reach.
        score_key: Where the raw cosine is put in the metadata of the returned copies; None leaves it out.

    Raises:
        IndexMismatchError: If the documents were embedded by another model, or are narrower than the queries will be.
        ValueError: If a layer or exit is asked of embeddings that have none.

    Example:
        >>> embeddings = ElasticEmbeddings(model="minilm-elastic")
        >>> retriever = ElasticRetriever.from_texts(["Cats purr.", "Banks lend money."], embeddings, k=1)
        >>> retriever.invoke("pets", dim=128)
        [Document(id='...', metadata={'score': 0...}, page_content='Cats purr.')]
    """

    # An option that does not exist must be an error; the host's default is to ignore it.
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    # Public fields all: configurable_fields rebuilds the retriever from them and from nothing else.
    vectorstore: VectorStore
    embeddings: Embeddings | None = None
    k: int = Field(default=4, ge=1)
    fetch_k: int | None = Field(default=None, ge=1)
    layer: int | None = Field(default=None, ge=1)
    dim: int | None = Field(default=None, ge=1)
    exit: StrictStr | StrictFloat | None = None
    filter: Any = None
    score_threshold: float | None = None
    score_key: str | None = "score"

    def __init__(self, **fields: Any) -> None:  # as pydantic's own
        super().__init__(**fields)
        # Not in a validator: pydantic would turn the error into a ValidationError.
        self._check()

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Document],
        embeddings: Embeddings,
        *,
        shortlist_dim: int | None = None,
        show_progress: bool | None = None,
        **fields: Any,  # of this class; unknown ones are refused by it
    ) -> Self:
        """Embed documents at the size of ``embeddings``, normally the full one, and retrieve from them.

        Args:
            documents: The documents; their ``id`` is kept, or made up.
            embeddings: Embeds the documents now and the queries later.
            shortlist_dim: As for :class:`ElasticVectorStore`.
            show_progress: Show a bar while embedding; None takes the field of ``embeddings``.
            **fields: ``k`` and the other arguments of the class.

        Returns:
            Self: A retriever with a store of its own.
        """
        retriever = cls(vectorstore=ElasticVectorStore(embeddings, shortlist_dim=shortlist_dim), **fields)
        retriever.vectorstore.add_documents(documents, show_progress=show_progress)
        retriever._check()  # again: now the width of the documents is known
        return retriever

    @classmethod
    def from_texts(
        cls,
        texts: Sequence[str],
        embeddings: Embeddings,
        metadatas: Sequence[dict[str, Any]] | None = None,
        ids: Sequence[str | None] | None = None,
        **options: Any,  # of from_documents
    ) -> Self:
        """As :meth:`from_documents`, from texts with their metadata and ids.

        Raises:
            ValueError: If ``metadatas`` or ``ids`` has another length than ``texts``.
        """
        return cls.from_documents(documents_of(texts, metadatas, ids), embeddings, **options)

    def write_canary(self) -> None:
        """Keep with a Chroma or Qdrant collection what its documents were embedded with: these embeddings.

        Every retriever over that collection checks it from then on. A store of our own does so by itself.

        Raises:
            TypeError: If the store cannot keep it.
        """
        embeddings = self.queries_by
        made = made_with(embeddings)
        other_stores.write_canary(self.vectorstore, fingerprint_of(embeddings), made, canary_vector(embeddings, made))

    @property
    def queries_by(self) -> Embeddings:
        """The embeddings of the queries."""
        embeddings = self.vectorstore.embeddings if self.embeddings is None else self.embeddings
        if embeddings is None:
            raise ValueError(
                f"{type(self.vectorstore).__name__} has no embeddings of its own. Pass embeddings=... as well."
            )
        return embeddings

    def batch(self, inputs: list[str], config: Any = None, **options: Any) -> list[Any]:
        """As the host's, with all queries encoded in one call."""
        with encoded_before(self._encode_all(inputs, options)):
            return super().batch(inputs, config, **options)

    async def abatch(self, inputs: list[str], config: Any = None, **options: Any) -> list[Any]:
        """As :meth:`batch`."""
        with encoded_before(await run_beside(self.queries_by, self._encode_all, inputs, options)):
            return await super().abatch(inputs, config, **options)

    def _encode_all(self, queries: list[str], options: dict[str, Any]) -> dict[Any, Encoded]:
        try:
            return self._search(**{name: options.get(name) for name in Budget._fields}).encode(queries)
        except Exception:  # each query meets it again in its own run, where callbacks and return_exceptions see it
            return {}

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        fetch_k: int | None = None,
        layer: int | None = None,
        dim: int | None = None,
        exit: str | float | None = None,
        filter: Any = None,
        score_threshold: float | None = None,
    ) -> list[Document]:
        # Every option by name: the host would swallow a misspelled one.
        started = time.perf_counter()
        search = self._search(layer, dim, exit, k, fetch_k, filter, score_threshold)
        documents, report = search.run(query, started=started)
        dispatch_custom_event(_EVENT, report, config={"callbacks": run_manager.get_child()})
        return documents

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        fetch_k: int | None = None,
        layer: int | None = None,
        dim: int | None = None,
        exit: str | float | None = None,
        filter: Any = None,
        score_threshold: float | None = None,
    ) -> list[Document]:
        started = time.perf_counter()
        search = self._search(layer, dim, exit, k, fetch_k, filter, score_threshold)
        run = functools.partial(search.run, query, started=started)
        documents, report = await run_beside(self.queries_by, run)
        await adispatch_custom_event(_EVENT, report, config={"callbacks": run_manager.get_child()})
        return documents

    def _search(
        self,
        layer: int | None = None,
        dim: int | None = None,
        exit: str | float | None = None,
        k: int | None = None,
        fetch_k: int | None = None,
        filter: Any = None,
        score_threshold: float | None = None,
    ) -> Search:
        """What a call does that was given this."""
        return Search(
            store=self.vectorstore,
            embeddings=self.queries_by,
            budget=self._budget(Budget.checked(layer, dim, exit)),
            k=first_given(k, self.k),
            fetch_k=first_given(fetch_k, self.fetch_k),
            filter=first_given(filter, self.filter),
            score_threshold=first_given(score_threshold, self.score_threshold),
            score_key=self.score_key,
        )

    def _budget(self, asked: Budget) -> Budget:
        embeddings, store = self.queries_by, self.vectorstore
        budget = asked.over(Budget(self.layer, self.dim, self.exit))
        if isinstance(embeddings, ElasticEmbeddings):
            budget = budget.over(embeddings.budget("query"))
        return store.query_budget(budget) if isinstance(store, ElasticVectorStore) else budget

    def _get_ls_params(self, **kwargs: Any) -> dict[str, Any]:  # the host passes the arguments of invoke
        budget = self._budget(Budget(kwargs.get("layer"), kwargs.get("dim"), kwargs.get("exit")))
        store = self.vectorstore
        return {
            **super()._get_ls_params(**kwargs),
            "ls_vector_store_provider": type(store).__name__,
            "ls_embedding_provider": type(self.queries_by).__name__,
            "ls_embedding_model": model_name(self.queries_by),
            "ls_k": first_given(kwargs.get("k"), self.k),
            "ls_layer": budget.layer,
            "ls_dim": budget.dim or (store.index.width if isinstance(store, ElasticVectorStore) else None),
            "ls_exit": budget.exit,
        }

    def _check(self) -> None:
        embeddings, store, budget = self.queries_by, self.vectorstore, self._budget(Budget())
        check_budget(embeddings, budget)
        if not isinstance(store, ElasticVectorStore):
            check_other_store(store, embeddings, dim=budget.dim)
        else:
            # Its own embeddings the store has checked when it was opened.
            check_same_space(store.index, None if embeddings is store.embeddings else embeddings, dim=budget.dim)
