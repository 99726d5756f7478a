"""Ranks again, at full depth and width, what a cheap search has found."""

from collections.abc import Sequence

import numpy as np
from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict, Field

from langchain_st_plugins.document_copies import with_score
from langchain_st_plugins.embedding_calls import run_beside
from langchain_st_plugins.embeddings import ElasticEmbeddings


class FullDepthReranker(BaseDocumentCompressor):
    """A document compressor: embeds query and documents at full depth and width, and sorts by cosine.

    For stores that were filled on a budget, or that others filled; it embeds the documents at every call. A store of
    ours whose documents are at full depth needs none: it ranks its shortlist by vectors it has.

    Args:
        embeddings: Whatever their budget, all layers and coordinates are used here.
        top_n: Documents to keep; None keeps them all.
        score_key: Where the raw cosine is put in the metadata of the returned copies; None leaves it out.

    Example:
        >>> embeddings = ElasticEmbeddings(model="minilm-elastic", layer=3, dim=64)
        >>> found = [Document("Banks lend money."), Document("Cats purr.")]
        >>> reranker = FullDepthReranker(embeddings=embeddings, top_n=1)
        >>> [document.page_content for document in reranker.compress_documents(found, "pets")]
        ['Cats purr.']
    """

    model_config = ConfigDict(extra="forbid")

    embeddings: ElasticEmbeddings
    top_n: int | None = Field(default=None, ge=1)
    score_key: str | None = "score"

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The documents, best first; equal ones in the order they came.

        Args:
            documents: n documents.
            query: The query.
            callbacks: The host's; nothing here reports to them.

        Raises:
            InputError: If the query or a document is blank.
        """
        full = self.embeddings.model_copy(update={"layer": None, "dim": None, "exit": None, "document_exit": None})
        vector = full.encode([query], kind="query", show_progress=False)[0]  # (width,)
        if not documents:
            return []
        vectors = full.encode([document.page_content for document in documents], show_progress=False)  # (n, width)
        cosines = np.clip(vectors @ vector, -1.0, 1.0)
        return [
            with_score(documents[i], float(cosines[i]), self.score_key)
            for i in np.argsort(-cosines, kind="stable")[: self.top_n].tolist()
        ]

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """As :meth:`compress_documents`, on the model's own thread."""
        return await run_beside(self.embeddings, self.compress_documents, documents, query, callbacks)
