"""A LangChain vector store of unit vectors: exact or by a funnel, a budget per query, saved without pickle."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langchain_st_plugins.budgets import Budget
from langchain_st_plugins.document_copies import copied
from langchain_st_plugins.embedding_calls import (
    beside,
    document_vectors,
    fingerprint_of,
    made_with,
    query_vectors,
    run_beside,
)
from langchain_st_plugins.filters import Filter
from langchain_st_plugins.index import ElasticIndex
from langchain_st_plugins.index_files import load_index, save_index
from langchain_st_plugins.mismatches import OnMismatch, canary_vector, check_canary, check_same_space
from langchain_st_plugins.rankings import check_count
from langchain_st_plugins.texts import check_documents, check_ids, check_texts, documents_of


class ElasticVectorStore(VectorStore):
    """Documents embedded once, in memory or mapped from disk; layer, dim and exit chosen per query.

    Scores are raw cosines in [-1, 1], nowhere rescaled. Queries may be narrower than the documents without embedding
    anything again. A filter, a function of the document or a dict of metadata values, applies before the ranking.
    Adding a document with an id that is there replaces the old one.

    With ``shortlist_dim`` a search is a funnel: the first coordinates choose ``fetch_k`` documents, all coordinates
    rank them. That pays from some 5,000 documents on, and for models whose first coordinates carry most, such as
    those trained with ``ElasticLoss`` or another Matryoshka loss. From ``hnsw_from`` documents on a graph chooses them,
    and a search reads few; it is approximate, and a longer shortlist misses less. A search with a filter compares all
    that pass it, so ``k`` come back whenever ``k`` pass.

    Args:
        embedding: Any LangChain embeddings. Layers and exits need :class:`ElasticEmbeddings`.
        shortlist_dim: Coordinates that choose the shortlist; None takes all of them.
        fetch_k: Length of the shortlist, where there is one.
        hnsw_from: Documents from which an HNSW graph over ``shortlist_dim`` coordinates chooses the shortlist; None
            makes no graph. Queries narrower than it are compared with all documents.
        index: The documents, made with ``embedding``; None starts an empty one.

    Raises:
        IndexMismatchError: If ``index`` was made with another model.
        SizeError, ValueError: If ``shortlist_dim``, ``fetch_k`` or ``hnsw_from`` is less than 1.
        MissingExtraError: If ``hnsw_from`` is given without the extra ``hnsw``.

    Example:
        >>> from langchain_st_plugins import ElasticEmbeddings
        >>> embeddings = ElasticEmbeddings(model="minilm-elastic")
        >>> store = ElasticVectorStore.from_texts(["Cats purr.", "Banks lend money."], embeddings, shortlist_dim=64)
        >>> store.similarity_search_with_score("pets", k=1, dim=128)
        [(Document(id='...', metadata={}, page_content='Cats purr.'), 0...)]
        >>> store.save_local("saved")
        >>> ElasticVectorStore.load_local("saved", embeddings).index
        ElasticIndex(2 documents, layer=None, dim=None, width=384)
    """

    def __init__(
        self,
        embedding: Embeddings,
        *,
        shortlist_dim: int | None = None,
        fetch_k: int = 100,
        hnsw_from: int | None = None,
        index: ElasticIndex | None = None,
    ) -> None:
        check_count("fetch_k", fetch_k)
        self.shortlist_dim = Budget.checked(dim=shortlist_dim).dim
        self.fetch_k = fetch_k
        self.hnsw_from = hnsw_from
        self._embedding = embedding
        if index is None:
            index = ElasticIndex(fingerprint=fingerprint_of(embedding), **made_with(embedding)._asdict())
        check_same_space(index, embedding)
        self._use(index)

    @property
    def embeddings(self) -> Embeddings:
        """What embeds documents and queries."""
        return self._embedding

    @classmethod
    def from_texts(
        cls,
        texts: Sequence[str],
        embedding: Embeddings,
        metadatas: Sequence[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **options: Any,  # of the class; unknown ones are refused by it
    ) -> Self:
        """A store of these texts; arguments as for :meth:`add_texts` and the class."""
        store = cls(embedding, **options)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    async def afrom_texts(cls, texts: Sequence[str], embedding: Embeddings, *arguments: Any, **options: Any) -> Self:
        """As :meth:`from_texts`."""
        return await run_beside(embedding, lambda: cls.from_texts(texts, embedding, *arguments, **options))

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Sequence[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **options: Any,  # of add_documents
    ) -> list[str]:
        """As :meth:`add_documents`, from texts; where given, there are as many ``metadatas`` and ``ids``."""
        return self.add_documents(documents_of(texts, metadatas, ids), **options)

    def add_documents(
        self,
        documents: Iterable[Document],
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        show_progress: bool | None = None,
    ) -> list[str]:
        """Embed and add documents, at the layer, dim and exit the index was made with.

        Args:
            documents: The documents. Without an id they get one.
            ids: In place of the documents' own.
            batch_size: Embed and add so many at a time; None all at once. What was added stays if a later batch fails.
            show_progress: Show a bar while embedding; None leaves it to the embeddings.

        Returns:
            list[str]: Their ids.

        Raises:
            TypeError, ValueError, InputError: If one is no Document, an id comes twice, a text is blank, or
                ``batch_size`` is less than 1; nothing was embedded then.
        """
        documents = check_documents(documents, ids)
        texts = [document.page_content for document in documents]
        # What can be refused is refused before the embedding, which may take hours.
        check_ids(documents)
        check_texts(texts)
        if batch_size is not None:
            check_count("batch_size", batch_size)
        size, added = batch_size or max(len(texts), 1), []
        for start in range(0, len(texts), size):
            batch = slice(start, start + size)
            vectors = document_vectors(self.embeddings, texts[batch], self.index.made, show_progress=show_progress)
            added += self.index.add(documents[batch], vectors)
        return added

    def delete(self, ids: Sequence[str] | None = None) -> bool:
        """Drop documents; unknown ids do nothing. True is the host's word for done."""
        if ids is None:
            raise ValueError("delete needs the ids of documents, got None. For an empty store make a new one.")
        self.index.delete(ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Copies of the documents with these ids; unknown ids are left out."""
        return self.index.get(ids)

    def search_vectors(
        self, vectors: np.ndarray, *, k: int, filter: Filter | None = None, fetch_k: int | None = None
    ) -> list[list[tuple[Document, float]]]:
        """The k most similar documents, copies of them, with raw cosines, for each of n queries (n, dim)."""
        options: dict[str, Any] = {"k": k, "filter": filter, "shortlist_dim": self.shortlist_dim}
        options["fetch_k"] = self.fetch_k if fetch_k is None else fetch_k
        found = [self.index.search(vector, **options) for vector in vectors]
        return [[(copied(document), score) for document, score in row] for row in found]

    def similarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        *,
        filter: Filter | None = None,
        layer: int | None = None,
        dim: int | None = None,
        exit: str | float | None = None,
        fetch_k: int | None = None,
    ) -> list[tuple[Document, float]]:
        """The k documents most similar to a query, with raw cosines, best first.

        Args:
            query: The query.
            k: How many; fewer come back only if fewer pass the filter.
            filter: A function of the document, or a dict of metadata values.
            layer: Depth of the query; None takes the embeddings'.
            dim: Its width; None takes the embeddings', or the documents'.
            exit: Its early exit; None takes the embeddings'.
            fetch_k: Length of the shortlist; None takes the store's.
        """
        vectors, _ = query_vectors(self.embeddings, [query], self.query_budget(Budget.checked(layer, dim, exit)))
        return self.search_vectors(vectors, k=k, filter=filter, fetch_k=fetch_k)[0]

    def similarity_search(self, query: str, k: int = 4, **options: Any) -> list[Document]:
        """As :meth:`similarity_search_with_score`, without the scores."""
        return [document for document, _ in self.similarity_search_with_score(query, k, **options)]

    def similarity_search_by_vector(self, embedding: Sequence[float], k: int = 4, **options: Any) -> list[Document]:
        """The k documents most similar to a vector, which may be narrower than theirs; options: filter, fetch_k."""
        return [document for document, _ in self.search_vectors(np.array([embedding]), k=k, **options)[0]]

    def similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, *, score_threshold: float | None = None, **options: Any
    ) -> list[tuple[Document, float]]:
        """As :meth:`similarity_search_with_score`: the relevance is the raw cosine, which may be negative."""
        found = self.similarity_search_with_score(query, k, **options)
        return [(document, score) for document, score in found if score_threshold is None or score >= score_threshold]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        **budget: Any,  # layer, dim, exit
    ) -> list[Document]:
        """Documents that are similar to the query and not to one another, out of the ``fetch_k`` most similar."""
        vectors, _ = query_vectors(self.embeddings, [query], self.query_budget(Budget.checked(**budget)))
        return self.max_marginal_relevance_search_by_vector(vectors[0], k, fetch_k, lambda_mult, filter)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: Sequence[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
    ) -> list[Document]:
        """As :meth:`max_marginal_relevance_search`, for a vector."""
        options: dict[str, Any] = {"shortlist_dim": self.shortlist_dim, "fetch_k": self.fetch_k, "filter": filter}
        vector = np.asarray(embedding)
        found = self.index.search_diverse(vector, k=k, candidates=fetch_k, lambda_mult=lambda_mult, **options)
        return [copied(document) for document in found]

    def _use(self, index: ElasticIndex) -> None:
        if self.hnsw_from is not None:
            check_count("hnsw_from", self.hnsw_from)
            index.keep_graph(self.hnsw_from, dim=self.shortlist_dim)
        self.index = index

    def query_budget(self, asked: Budget) -> Budget:
        """What a query costs: what was asked, else the embeddings' own, at most as wide as an index of one dim."""
        return asked.over(Budget(dim=self.index.dim))

    def save_local(self, folder: str | Path) -> None:
        """Write the store into a folder, or over the one in it; killed half-way, it leaves the old one whole."""
        save_index(self.index, Path(folder), canary=canary_vector(self.embeddings, self.index.made))

    @classmethod
    def load_local(
        cls,
        folder: str | Path,
        embedding: Embeddings,
        *,
        on_mismatch: OnMismatch = "raise",
        **options: Any,  # of the class; unknown ones are refused by it
    ) -> Self:
        """Open a saved store without reading it all; the vectors are mapped into memory.

        Args:
            folder: What :meth:`save_local` wrote.
            embedding: Of the model the store was made with. Its queries may have another budget; documents are added
                at the index's layer, dim and exit in any case.
            on_mismatch: "warn" opens an index of another model all the same: of another precision, say.
            **options: ``shortlist_dim``, ``fetch_k``, ``hnsw_from``; a graph that is not saved is made now.

        Raises:
            IndexMismatchError: If the embeddings are of another model, or their queries wider than the documents.
            FileNotFoundError, ManifestError, UnsafeModelError: If there is no index, or none that can be opened.
        """
        index, canary = load_index(Path(folder), with_graph=options.get("hnsw_from") is not None)
        store = cls(embedding, **options)
        check_same_space(index, embedding, dim=getattr(embedding, "dim", None), on_mismatch=on_mismatch)
        check_canary(canary, canary_vector(embedding, index.made), on_mismatch=on_mismatch)
        store._use(index)
        return store

    # On the model's own thread, not on asyncio's default pool, where a few long calls would keep others waiting.
    aadd_texts = beside(add_texts)
    aadd_documents = beside(add_documents)
    adelete = beside(delete)
    aget_by_ids = beside(get_by_ids)
    asimilarity_search = beside(similarity_search)
    asimilarity_search_by_vector = beside(similarity_search_by_vector)
    asimilarity_search_with_score = beside(similarity_search_with_score)
    asimilarity_search_with_relevance_scores = beside(similarity_search_with_relevance_scores)
    amax_marginal_relevance_search = beside(max_marginal_relevance_search)
    amax_marginal_relevance_search_by_vector = beside(max_marginal_relevance_search_by_vector)
