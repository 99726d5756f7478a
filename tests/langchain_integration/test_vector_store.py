import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.indexing import InMemoryRecordManager, index

from langchain_st_plugins import ElasticEmbeddings, ElasticVectorStore
from langchain_st_plugins.index import ElasticIndex
from st_plugins.errors import IndexMismatchError, InputError, SizeError, UntrainedSizeError

QUERY = "a cat at night"
FAKE = DeterministicFakeEmbedding(size=6)


@pytest.fixture
def store(embeddings, texts):
    metadatas = [{"n": i, "money": "money" in text} for i, text in enumerate(texts)]
    return ElasticVectorStore.from_texts(texts, embeddings, metadatas, ids=[f"id-{i}" for i in range(len(texts))])


def ids(documents):
    return [document.id for document in documents]


@pytest.mark.parametrize("budget", [{}, {"dim": 8}, {"layer": 2, "dim": 16}, {"exit": "fast"}])
def test_scores_are_the_cosines_of_queries_on_a_budget_with_full_documents(store, embeddings, texts, budget):
    query = embeddings.encode([QUERY], kind="query", **budget)[0]
    cosines = embeddings.encode(texts, dim=budget.get("dim")) @ query
    order = np.argsort(-cosines)
    found = store.similarity_search_with_score(QUERY, 6, **budget)
    assert ids(document for document, _ in found) == [f"id-{i}" for i in order]
    np.testing.assert_allclose([score for _, score in found], cosines[order], atol=1e-6)
    assert store.similarity_search(QUERY, 2, **budget) == [document for document, _ in found[:2]]
    assert store.similarity_search_by_vector(query.tolist(), 2) == [document for document, _ in found[:2]]


def test_relevance_is_the_raw_cosine_even_below_zero(store):
    found = store.similarity_search_with_relevance_scores(QUERY, 6)
    assert found == store.similarity_search_with_score(QUERY, 6)
    assert store.similarity_search_with_relevance_scores(QUERY, 6, score_threshold=found[2][1]) == found[:3]
    store.add_texts([QUERY], ids=["opposite"])
    vector = [-value for value in store.embeddings.embed_query(QUERY)]
    assert store.search_vectors(np.array([vector]), k=7)[0][-1][1] < 0


def test_filters_apply_before_the_ranking_and_before_the_shortlist(embeddings, texts):
    store = ElasticVectorStore.from_texts(texts, embeddings, [{"n": i} for i in range(6)], shortlist_dim=2, fetch_k=1)
    assert [document.metadata["n"] for document in store.similarity_search(QUERY, 1, filter={"n": 4})] == [4]
    assert len(store.similarity_search(QUERY, 3, filter=lambda document: document.metadata["n"] > 2)) == 3


def test_a_call_may_lengthen_the_shortlist(embeddings, texts):
    funnel = ElasticVectorStore.from_texts(texts, embeddings, shortlist_dim=1, fetch_k=1)
    exact = ElasticVectorStore(embeddings, index=funnel.index)
    assert funnel.similarity_search(QUERY, 1) != exact.similarity_search(QUERY, 1)
    assert funnel.similarity_search(QUERY, 1, fetch_k=6) == exact.similarity_search(QUERY, 1)


def test_mmr_takes_budgets_and_filters(store):
    found = store.max_marginal_relevance_search(QUERY, 2, fetch_k=6, lambda_mult=0.0, dim=16)
    assert found[0].id == store.similarity_search(QUERY, 1, dim=16)[0].id
    assert len(found) == 2
    assert ids(store.max_marginal_relevance_search(QUERY, 2, filter={"n": 3})) == ["id-3"]
    with pytest.raises(TypeError, match="unexpected keyword argument 'depth'"):
        store.max_marginal_relevance_search(QUERY, 2, depth=3)


def test_documents_are_added_as_the_index_was_made(encoder, embeddings, texts):
    store = ElasticVectorStore(ElasticEmbeddings(encoder=encoder, layer=4, dim=16, document_exit="fast"))
    assert store.index.made == (4, 16, "fast")
    other = ElasticVectorStore(embeddings.with_budget(layer=2, dim=8), index=store.index)
    other.add_texts(texts)
    expected = embeddings.encode(texts, layer=4, dim=16, exit="fast")
    np.testing.assert_allclose(store.index.state.vectors, expected, atol=1e-6)


def test_batches_add_what_one_call_adds(embeddings, texts, encoder):
    whole = ElasticVectorStore.from_texts(texts, embeddings)
    parts = ElasticVectorStore(embeddings)
    encoder.calls.clear()
    parts.add_documents([Document(text) for text in texts], batch_size=4)
    assert [len(batch) for _, batch, _ in encoder.calls] == [4, 2]
    np.testing.assert_array_equal(parts.index.state.vectors, whole.index.state.vectors)


def test_results_may_be_changed_without_changing_the_store(store):
    store.similarity_search(QUERY)[0].metadata["n"] = "changed"
    store.max_marginal_relevance_search(QUERY)[0].metadata["n"] = "changed"
    assert all(document.metadata["n"] != "changed" for document in store.similarity_search(QUERY, 6))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.add_texts("text"), TypeError, r"texts must be a list of str, got str"),
        (lambda s: s.add_texts(["a", " "]), InputError, "position 1 is blank"),
        (lambda s: s.add_texts(["a"], [{}, {}]), ValueError, "metadatas must have one entry per text, got 2 for 1"),
        (lambda s: s.add_documents([Document("a")], ids=["1", "2"]), ValueError, "one entry per document, got 2 for 1"),
        (lambda s: s.add_documents(["a"]), TypeError, r"position 0 is str\. Use from_texts or add_texts"),
        (lambda s: s.add_texts(["a", "b"], ids=["1", "1"]), ValueError, "position 1, '1', came before"),
        (
            lambda s: s.add_documents([Document("a")], batch_size=-1),
            ValueError,
            "batch_size must be an integer of at least",
        ),
        (lambda s: s.delete("12"), TypeError, r"ids must be a list of str, got '12'\. Write \['12'\]"),
        (lambda s: s.delete(), ValueError, r"delete needs the ids of documents, got None\. For an empty"),
        (lambda s: s.similarity_search(QUERY, 0), ValueError, "k must be an integer of at least 1, got 0"),
        (lambda s: s.similarity_search(QUERY, fetch_k=0), ValueError, "fetch_k must be an integer of at least 1"),
        (lambda s: s.similarity_search(QUERY, dim=33), SizeError, "dim must be from 1 to 32"),
        (lambda s: s.similarity_search(QUERY, layer=3), UntrainedSizeError, r"one of \(2, 4, 6\), got 3"),
        (lambda s: s.similarity_search(QUERY, top_k=3), TypeError, "unexpected keyword argument 'top_k'"),
        (lambda s: ElasticVectorStore(FAKE, fetch_k=0), ValueError, "fetch_k must be an integer of at least 1, got 0"),
        (
            lambda s: ElasticVectorStore(FAKE, hnsw_from=0),
            ValueError,
            "hnsw_from must be an integer of at least 1, got 0",
        ),
        (lambda s: ElasticVectorStore(FAKE, shortlist_dim=0), SizeError, "dim must be an integer of at least 1"),
        (lambda s: ElasticVectorStore(FAKE).similarity_search("a", layer=2), ValueError, "layer needs ElasticEmb"),
    ],
)
def test_bad_input_is_refused(store, call, error, message):
    with pytest.raises(error, match=message):
        call(store)
    assert len(store.index) == 6


def test_an_index_of_another_model_is_refused():
    with pytest.raises(IndexMismatchError, match="fingerprint: index=toy/1, embeddings=.*DeterministicFakeEmbedding"):
        ElasticVectorStore(FAKE, index=ElasticIndex(fingerprint="toy/1"))


def test_any_embeddings_have_dims_filters_and_files(tmp_path, texts):
    store = ElasticVectorStore.from_texts(texts, FAKE, [{"n": i} for i in range(6)])
    found = store.similarity_search_with_score(texts[2], 1, dim=4)
    assert (found[0][0].metadata, found[0][1]) == ({"n": 2}, pytest.approx(1, abs=1e-6))
    store.save_local(tmp_path)
    again = ElasticVectorStore.load_local(tmp_path, FAKE)
    assert again.similarity_search(texts[2], 6) == store.similarity_search(texts[2], 6)
    # The same class, the same name, other weights: only the canary can tell.
    with pytest.raises(IndexMismatchError, match="width: index=6, embeddings=7"):
        ElasticVectorStore.load_local(tmp_path, DeterministicFakeEmbedding(size=7))


def test_a_saved_store_answers_as_before_and_takes_new_documents(store, embeddings, tmp_path):
    store.save_local(tmp_path / "saved")
    again = ElasticVectorStore.load_local(tmp_path / "saved", embeddings.with_budget(layer=2), shortlist_dim=16)
    assert again.similarity_search_with_score(QUERY, 6) == store.similarity_search_with_score(QUERY, 6, layer=2)
    again.add_texts(["the moon shines at night"])
    np.testing.assert_array_equal(again.index.state.vectors[6:], embeddings.encode(["the moon shines at night"]))


class _Changed:
    """The toy under its old name, with other weights."""

    fingerprint = "toy/1"

    def __init__(self, encoder):
        self.encoder = encoder

    def encode_document(self, texts, **options):
        return self.encoder.encode_document([text[::-1] for text in texts], **options)

    encode_query = encode_document


def test_a_store_of_another_model_is_refused_at_open(store, encoder, embeddings, tmp_path):
    store.save_local(tmp_path)
    with pytest.raises(IndexMismatchError, match="canary: its vector in the index .* a cosine of "):
        ElasticVectorStore.load_local(tmp_path, ElasticEmbeddings(encoder=_Changed(encoder)))
    with pytest.raises(IndexMismatchError, match="dim: index=32, embeddings=40"):
        ElasticVectorStore.load_local(tmp_path, embeddings.with_budget(dim=40))
    encoder.fingerprint = "toy/2"
    renamed = ElasticEmbeddings(encoder=encoder)
    with pytest.raises(IndexMismatchError, match="fingerprint: index=toy/1, embeddings=toy/2"):
        ElasticVectorStore.load_local(tmp_path, renamed)
    with pytest.warns(UserWarning, match="fingerprint: index=toy/1, embeddings=toy/2"):
        opened = ElasticVectorStore.load_local(tmp_path, renamed, on_mismatch="warn")
    assert opened.similarity_search(QUERY) == store.similarity_search(QUERY)


async def test_async_calls_give_the_same(store, texts, embeddings):
    query = embeddings.embed_query(QUERY)
    assert await store.asimilarity_search(QUERY, 2, dim=8) == store.similarity_search(QUERY, 2, dim=8)
    assert await store.asimilarity_search_with_score(QUERY) == store.similarity_search_with_score(QUERY)
    assert await store.asimilarity_search_by_vector(query) == store.similarity_search_by_vector(query)
    assert await store.amax_marginal_relevance_search(QUERY) == store.max_marginal_relevance_search(QUERY)
    found = await store.asimilarity_search_with_relevance_scores(QUERY, 2)
    assert found == store.similarity_search_with_score(QUERY, 2)
    other = await ElasticVectorStore.afrom_texts(texts, embeddings, ids=[str(i) for i in range(6)])
    assert await other.aadd_texts(["more"], ids=["6"]) == ["6"]
    assert await other.aadd_documents([Document("most", id="7")]) == ["7"]
    assert await other.adelete(["0"])
    assert ids(await other.aget_by_ids(["0", "6", "7"])) == ["6", "7"]


async def test_async_calls_leave_the_default_executor_alone(store, encoder):
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))  # one call on it would block everybody
    encoder.gate.clear()
    busy = [asyncio.create_task(store.asimilarity_search(QUERY)) for _ in range(6)]
    busy += [asyncio.create_task(store.aadd_texts([f"text {i}"])) for i in range(6)]
    await asyncio.sleep(0)
    await asyncio.wait_for(asyncio.to_thread(len, "unrelated"), timeout=10)
    assert not any(task.done() for task in busy)
    encoder.gate.set()
    await asyncio.gather(*busy)
    assert len(store.index) == 12


def test_searches_run_while_documents_come_and_go(embeddings, texts):
    store = ElasticVectorStore.from_texts(texts, embeddings, ids=[str(i) for i in range(6)], shortlist_dim=8)
    expected = store.similarity_search_with_score(QUERY, 1)

    def change(i):
        store.add_texts([f"filler {i}"], ids=[f"filler {i}"])
        store.delete([f"filler {i}"])

    with ThreadPoolExecutor(4) as pool:
        changes = [pool.submit(change, i) for i in range(30)]
        found = [pool.submit(store.similarity_search_with_score, QUERY, 1) for _ in range(60)]
        assert all(search.result() == expected for search in found)
        assert all(change.result() is None for change in changes)
    assert len(store.index) == 6


def test_indexing_again_skips_what_is_there_and_a_new_model_starts_afresh(embeddings, texts):
    store = ElasticVectorStore(embeddings)
    documents = [Document(text, metadata={"source": text[:5]}) for text in texts]

    def run(namespace, given):
        records = managers.setdefault(namespace, InMemoryRecordManager(namespace))
        return index(given, records, store, cleanup="full", source_id_key="source", key_encoder="sha256")

    managers = {}
    assert run(embeddings.cache_namespace, documents)["num_added"] == 6
    assert run(embeddings.cache_namespace, documents)["num_skipped"] == 6
    assert run(embeddings.cache_namespace, documents[:4])["num_deleted"] == 2
    assert len(store.index) == 4
    assert run(embeddings.with_budget(dim=8).cache_namespace, documents)["num_added"] == 6


def test_the_hosts_retriever_takes_budgets_too(store):
    retriever = store.as_retriever(search_kwargs={"k": 2, "dim": 8})
    assert retriever.invoke(QUERY) == store.similarity_search(QUERY, 2, dim=8)
    assert retriever.invoke(QUERY, layer=2) == store.similarity_search(QUERY, 2, dim=8, layer=2)
    diverse = store.as_retriever(search_type="mmr", search_kwargs={"k": 2, "fetch_k": 6})
    assert diverse.invoke(QUERY) == store.max_marginal_relevance_search(QUERY, 2, fetch_k=6)
    score = store.similarity_search_with_score(QUERY, 3)[2][1]
    near = store.as_retriever(search_type="similarity_score_threshold", search_kwargs={"score_threshold": score})
    assert len(near.invoke(QUERY)) == 3


@pytest.fixture
def many():
    return [f"{a} {b} {c}" for a in "cat dog bank river money sea book".split() for b in "of in at".split()
            for c in "night farm water mat house tree town road wood wind".split()]  # fmt: skip


@pytest.mark.parametrize("shortlist_dim", [None, 8])
def test_a_graph_changes_how_documents_are_found_and_nothing_else(embeddings, many, tmp_path, shortlist_dim):
    options = {"shortlist_dim": shortlist_dim, "fetch_k": 60}
    metadatas = [{"n": i} for i in range(len(many))]
    ids = [f"id-{i}" for i in range(len(many))]
    plain = ElasticVectorStore.from_texts(many, embeddings, metadatas, ids=ids, **options)
    graphed = ElasticVectorStore.from_texts(many, embeddings, metadatas, ids=ids, hnsw_from=100, **options)
    for store in (plain, graphed):
        store.delete(ids[:20])
    graphed.save_local(tmp_path)
    opened = ElasticVectorStore.load_local(tmp_path, embeddings, hnsw_from=100, **options)
    assert opened.index.state.graph.count == len(many) - 20
    assert ElasticVectorStore.load_local(tmp_path, embeddings).index.state.graph is None
    for store in (graphed, opened):
        assert store.similarity_search_with_score(QUERY, 5) == plain.similarity_search_with_score(QUERY, 5)
        assert store.max_marginal_relevance_search(QUERY, 3) == plain.max_marginal_relevance_search(QUERY, 3)
        for filter in ({"n": 30}, lambda document: document.metadata["n"] % 40 == 1):
            found = store.similarity_search(QUERY, 4, filter=filter)
            assert found == plain.similarity_search(QUERY, 4, filter=filter)
        for budget in ({"dim": 4}, {"layer": 2}):
            assert store.similarity_search(QUERY, 3, **budget) == plain.similarity_search(QUERY, 3, **budget)


def test_threads_search_while_a_graph_grows_and_shrinks(embeddings, many):
    store = ElasticVectorStore.from_texts(many, embeddings, ids=many, hnsw_from=20, fetch_k=30)
    expected = store.similarity_search(many[3], 1)

    def change(i):
        added = store.add_texts([f"river {i} town"])
        store.delete(added if i % 2 else [*added, many[-1 - i]])

    with ThreadPoolExecutor(4) as pool:
        changes = [pool.submit(change, i) for i in range(20)]
        found = [pool.submit(store.similarity_search, many[3], 1) for _ in range(60)]
        assert all(search.result() == expected for search in found)
        assert all(change.result() is None for change in changes)
    assert len(store.index) == store.index.state.graph.count == len(many) - 10
