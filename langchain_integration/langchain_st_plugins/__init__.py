"""LangChain embeddings, a vector store, a retriever and an agent's tool that choose depth and width per query.

It holds no model code: any object with ``encode_query`` and ``encode_document`` will do, and importing this package
imports neither torch nor sentence-transformers.
"""

from st_plugins.errors import MissingExtraError

try:
    from langchain_st_plugins.budget_tool import create_budget_tool
    from langchain_st_plugins.embeddings import ElasticEmbeddings
    from langchain_st_plugins.multi_vector_retriever import MultiVectorRetriever
    from langchain_st_plugins.reranker import FullDepthReranker
    from langchain_st_plugins.retriever import ElasticRetriever
    from langchain_st_plugins.vector_store import ElasticVectorStore
except ModuleNotFoundError as error:
    if error.name != "langchain_core":
        raise
    raise MissingExtraError("langchain-core", "langchain") from None

__all__ = [
    "ElasticEmbeddings",
    "ElasticRetriever",
    "ElasticVectorStore",
    "FullDepthReranker",
    "MultiVectorRetriever",
    "create_budget_tool",
]
