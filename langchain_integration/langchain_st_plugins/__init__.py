"""LangChain embeddings and a retriever that choose depth and width per query.

It holds no model code: any object with ``encode_query`` and ``encode_document`` will do, and importing this package
imports neither torch nor sentence-transformers.
"""

from st_plugins.errors import MissingExtraError

try:
    from langchain_st_plugins.embeddings import ElasticEmbeddings
    from langchain_st_plugins.retriever import ElasticRetriever
except ModuleNotFoundError as error:
    if error.name != "langchain_core":
        raise
    raise MissingExtraError("langchain-core", "langchain") from None

__all__ = ["ElasticEmbeddings", "ElasticRetriever"]
