"""ElasticRetriever over Chroma and Qdrant themselves, in memory and on disk. `make test-stores` installs them."""

import numpy as np
import pytest

from langchain_st_plugins import ElasticEmbeddings, ElasticRetriever, FullDepthReranker
from st_plugins.errors import IndexMismatchError
from toy_encoder import ToyEncoder, exit_layer

pytestmark = pytest.mark.slow

QUERIES = ["a cat at night", "who lends money", "water of the river"]
IDS = [f"00000000-0000-0000-0000-00000000000{i}" for i in range(6)]  # Qdrant takes no others


def chroma(folder, embeddings, space):
    import chromadb
    from langchain_chroma import Chroma

    settings = chromadb.Settings(anonymized_telemetry=False, is_persistent=True, persist_directory=str(folder))
    return Chroma(
        f"texts-{space}",
        embedding_function=embeddings,
        client=chromadb.Client(settings),
        collection_metadata={"mine": 1, "hnsw:space": space},
    )


def qdrant(folder, embeddings, distance):
    from langchain_qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient
    from qdrant_client.models import Distance, VectorParams

    client = QdrantClient(path=str(folder)) if folder else QdrantClient(":memory:")
    if not client.collection_exists("texts"):
        client.create_collection("texts", VectorParams(size=32, distance=getattr(Distance, distance)))
    return QdrantVectorStore(client, "texts", embeddings, distance=getattr(Distance, distance))


def closed(store):
    """Free the folder of a store for the next one that opens it."""
    if hasattr(store, "client"):
        store.client.close()
    else:
        store._client.close()


STORES = {
    "Chroma, cosine": lambda folder, embeddings: chroma(folder, embeddings, "cosine"),
    "Chroma, l2": lambda folder, embeddings: chroma(folder, embeddings, "l2"),
    "Chroma, ip": lambda folder, embeddings: chroma(folder, embeddings, "ip"),
    "Qdrant in memory": lambda folder, embeddings: qdrant(None, embeddings, "COSINE"),
    "Qdrant on disk": lambda folder, embeddings: qdrant(folder, embeddings, "COSINE"),
    "Qdrant, dot": lambda folder, embeddings: qdrant(folder, embeddings, "DOT"),
}
ON_DISK = [name for name in STORES if name != "Qdrant in memory"]


@pytest.fixture(params=STORES)
def store(request, tmp_path, embeddings, texts):
    store = STORES[request.param](tmp_path, embeddings)
    store.add_texts(texts, [{"n": i} for i in range(6)], ids=IDS)
    yield store
    closed(store)


def only(store, n):
    """That metadata.n is this, in the store's own language."""
    if not hasattr(store, "collection_name"):
        return {"n": n}
    from qdrant_client.models import FieldCondition, Filter, MatchValue

    return Filter(must=[FieldCondition(key="metadata.n", match=MatchValue(value=n))])


@pytest.mark.parametrize("budget", [{}, {"layer": 2}, {"layer": 4}, {"exit": "fast"}])
def test_queries_on_a_budget_meet_documents_at_full_depth_and_scores_are_cosines(store, embeddings, texts, budget):
    documents = embeddings.encode(texts)
    retriever = ElasticRetriever(vectorstore=store, k=6)
    for query in QUERIES:
        cosines = documents @ embeddings.encode([query], kind="query", **budget)[0]
        found = retriever.invoke(query, **budget)
        assert [document.metadata["n"] for document in found] == np.argsort(-cosines).tolist()
        np.testing.assert_allclose([d.metadata["score"] for d in found], np.sort(cosines)[::-1], atol=1e-5)
        assert [document.page_content for document in found] == [texts[d.metadata["n"]] for d in found]


def test_filters_are_the_stores_and_k_counts_what_passes(store):
    retriever = ElasticRetriever(vectorstore=store, k=3)
    for n in (0, 5):
        (found,) = retriever.invoke(QUERIES[0], layer=2, filter=only(store, n))
        assert found.metadata["n"] == n
    assert retriever.invoke(QUERIES[0], filter=only(store, 77)) == []
    assert len(retriever.invoke(QUERIES[0])) == 3


def test_a_threshold_is_a_raw_cosine(store):
    retriever = ElasticRetriever(vectorstore=store, k=6)
    scores = [document.metadata["score"] for document in retriever.invoke(QUERIES[1])]
    between = (scores[1] + scores[2]) / 2
    assert len(retriever.invoke(QUERIES[1], score_threshold=between)) == 2


async def test_batches_and_async_calls_find_the_same(store):
    retriever = ElasticRetriever(vectorstore=store, k=2, layer=4)
    expected = [retriever.invoke(query) for query in QUERIES]
    assert retriever.batch(QUERIES) == expected
    assert await retriever.abatch(QUERIES) == expected
    assert [await retriever.ainvoke(query) for query in QUERIES] == expected


def test_where_a_query_left_is_reported(store):
    from langchain_core.callbacks import BaseCallbackHandler

    class Reports(BaseCallbackHandler):
        def on_custom_event(self, name, data, **kwargs):
            reports.append(data)

    reports = []
    ElasticRetriever(vectorstore=store, exit="fast").invoke(QUERIES[0], {"callbacks": [Reports()]})
    assert reports[0]["exit_layer"] == exit_layer(QUERIES[0], "fast")


def test_full_depth_reranks_what_a_shallow_query_found(store, embeddings, texts):
    found = ElasticRetriever(vectorstore=store, k=6, layer=2).invoke(QUERIES[2])
    sorted_again = FullDepthReranker(embeddings=embeddings, top_n=6).compress_documents(found, QUERIES[2])
    cosines = embeddings.encode(texts) @ embeddings.encode([QUERIES[2]], kind="query")[0]
    assert [document.metadata["n"] for document in sorted_again] == np.argsort(-cosines).tolist()


@pytest.mark.parametrize("name", ON_DISK)
def test_the_canary_stays_with_the_collection_and_refuses_another_model(name, tmp_path, embeddings, texts):
    store = STORES[name](tmp_path, embeddings)
    store.add_texts(texts, ids=IDS)
    before = ElasticRetriever(vectorstore=store, k=6).invoke(QUERIES[0])
    ElasticRetriever(vectorstore=store).write_canary()
    closed(store)
    again = STORES[name](tmp_path, ElasticEmbeddings(encoder=ToyEncoder(), layer=2))
    assert len(ElasticRetriever(vectorstore=again, layer=6, k=6).invoke(QUERIES[0])) == 6
    # The distance and its meaning are as they were.
    after = ElasticRetriever(vectorstore=again, k=6, embeddings=embeddings).invoke(QUERIES[0])
    assert [document.page_content for document in after] == [document.page_content for document in before]
    scores = [[document.metadata["score"] for document in found] for found in (after, before)]
    np.testing.assert_allclose(*scores, atol=1e-6)
    if name.startswith("Chroma"):
        assert again._collection.metadata["mine"] == 1
    other = ToyEncoder()
    other.fingerprint = "toy/2"
    with pytest.raises(IndexMismatchError, match="fingerprint: index=toy/1, embeddings=toy/2"):
        ElasticRetriever(vectorstore=again, embeddings=ElasticEmbeddings(encoder=other))
    with pytest.raises(IndexMismatchError, match="dim: index=32, embeddings=8"):
        ElasticRetriever(vectorstore=again, embeddings=embeddings, dim=8)
    closed(again)


def test_without_a_canary_the_store_itself_refuses_another_width(store):
    with pytest.raises(Exception, match=r"(?i)dimension|broadcast|shape"):
        ElasticRetriever(vectorstore=store, k=1).invoke(QUERIES[0], dim=8)


def test_distances_that_are_no_cosines_give_no_scores(tmp_path, embeddings, texts):
    store = qdrant(tmp_path, embeddings, "EUCLID")
    store.add_texts(texts, ids=IDS)
    retriever = ElasticRetriever(vectorstore=store, k=2)
    assert ["score" in document.metadata for document in retriever.invoke(QUERIES[0])] == [False, False]
    with pytest.raises(ValueError, match="score_threshold needs cosines, and QdrantVectorStore gives none"):
        retriever.invoke(QUERIES[0], score_threshold=0.1)
    closed(store)
