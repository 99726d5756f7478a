import contextvars
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.runnables import ConfigurableField
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import ValidationError

from langchain_st_plugins import ElasticEmbeddings, ElasticRetriever, ElasticVectorStore
from langchain_st_plugins.index import ElasticIndex
from st_plugins.errors import ExitError, IndexMismatchError, InputError, SizeError, UntrainedSizeError
from toy_encoder import exit_layer

QUERY = "a cat at night"


@pytest.fixture
def retriever(embeddings, texts):
    metadatas = [{"n": i, "money": "money" in text} for i, text in enumerate(texts)]
    return ElasticRetriever.from_texts(texts, embeddings, metadatas, ids=[f"id-{i}" for i in range(len(texts))])


class Recorder(BaseCallbackHandler):
    def __init__(self):
        self.metadata, self.events, self.errors = [], [], []

    def on_retriever_start(self, serialized, query, *, run_id, metadata, **kwargs):
        self.metadata.append(metadata)
        self.run_id = run_id

    def on_custom_event(self, name, data, *, run_id, **kwargs):
        assert run_id == self.run_id
        self.events.append((name, data))

    def on_retriever_error(self, error, **kwargs):
        self.errors.append(error)


def contents(found):
    return [document.page_content for document in found]


def test_the_best_documents_come_first_with_their_cosine(retriever, embeddings, texts):
    found = retriever.invoke(QUERY)
    cosines = embeddings.encode(texts) @ np.array(embeddings.embed_query(QUERY))
    order = np.argsort(-cosines)[:4]
    assert contents(found) == [texts[i] for i in order]
    np.testing.assert_allclose([document.metadata["score"] for document in found], cosines[order], atol=1e-6)
    assert found[0].page_content == "a cat hunts at night"
    assert found[0].id == "id-5"


@pytest.mark.parametrize(("layer", "dim"), [(None, 8), (2, None), (2, 8), (4, 32)])
def test_a_smaller_query_searches_the_prefix_of_the_full_documents(retriever, embeddings, texts, layer, dim):
    found = retriever.invoke(QUERY, k=6, layer=layer, dim=dim)
    query = embeddings.encode([QUERY], kind="query", layer=layer, dim=dim)[0]
    documents = embeddings.encode(texts, dim=dim)  # at full depth
    np.testing.assert_allclose(
        [document.metadata["score"] for document in found], np.sort(documents @ query)[::-1], atol=1e-6
    )


def test_a_call_goes_before_bind_before_configurable_before_field_before_embeddings(encoder, embeddings, texts):
    small = embeddings.with_budget(dim=24)
    retriever = ElasticRetriever(
        vectorstore=ElasticRetriever.from_texts(texts, embeddings).vectorstore, embeddings=small, layer=6
    )

    def used(runnable, config=None, **kwargs):
        runnable.invoke(QUERY, config, **kwargs)
        options = encoder.calls[-1][2]
        return options["layer"], options["truncate_dim"]

    assert used(retriever) == (6, 24)
    assert used(retriever.model_copy(update={"dim": 20})) == (6, 20)
    configurable = retriever.configurable_fields(dim=ConfigurableField("dim"), layer=ConfigurableField("layer"))
    config = {"configurable": {"dim": 16, "layer": 4}}
    assert used(configurable, config) == (4, 16)
    assert used(configurable.bind(dim=8), config) == (4, 8)
    assert used(configurable.bind(dim=8), config, dim=4, layer=2) == (2, 4)


def test_configurable_fields_keep_the_documents(retriever):
    configurable = retriever.configurable_fields(k=ConfigurableField("k"))
    assert contents(configurable.invoke(QUERY, {"configurable": {"k": 2}})) == contents(retriever.invoke(QUERY))[:2]


def test_a_narrow_index_is_searched_at_its_own_width(embeddings, texts):
    narrow = ElasticRetriever.from_texts(texts, embeddings.with_budget(dim=8)).vectorstore
    retriever = ElasticRetriever(vectorstore=narrow, embeddings=embeddings, k=1)
    assert contents(retriever.invoke(QUERY)) == ["a cat hunts at night"]


@pytest.mark.parametrize("only", [{"money": True}, lambda document: document.metadata["money"]])
def test_the_filter_goes_before_the_ranking(retriever, texts, only):
    for found in (
        retriever.invoke(QUERY, k=2, filter=only),
        retriever.model_copy(update={"filter": only}).invoke(QUERY),
    ):
        assert sorted(contents(found)) == sorted([texts[1], texts[4]])


def test_the_threshold_is_a_raw_cosine(retriever):
    scores = [document.metadata["score"] for document in retriever.invoke(QUERY, k=6)]
    assert len(retriever.invoke(QUERY, k=6, score_threshold=scores[2])) == 3
    assert len(retriever.model_copy(update={"score_threshold": scores[1]}).invoke(QUERY)) == 2
    assert retriever.invoke(QUERY, score_threshold=1.0) == []


def test_scores_go_into_copies_under_the_wanted_key(retriever):
    retriever.invoke(QUERY)[0].metadata["n"] = "changed"
    plain = retriever.model_copy(update={"score_key": None}).invoke(QUERY)
    assert plain[0].metadata == {"n": 5, "money": False}
    renamed = retriever.model_copy(update={"score_key": "cosine"}).invoke(QUERY)
    assert set(renamed[0].metadata) == {"n", "money", "cosine"}


def test_a_misspelled_option_is_an_error(retriever, embeddings):
    handler = Recorder()
    with pytest.raises(TypeError, match="unexpected keyword argument 'top_k'"):
        retriever.invoke(QUERY, {"callbacks": [handler]}, top_k=3)
    assert len(handler.errors) == 1
    with pytest.raises(ValidationError, match=r"top_k\n.*Extra inputs are not permitted"):
        ElasticRetriever.from_texts(["a"], embeddings, top_k=3)


@pytest.mark.parametrize(
    ("query", "options", "error", "message"),
    [
        (" ", {}, InputError, "position 0 is blank"),
        (3, {}, TypeError, "position 0 is int"),
        (QUERY, {"k": 0}, ValueError, "k must be an integer of at least 1, got 0"),
        (QUERY, {"dim": 33}, SizeError, "dim must be from 1 to 32"),
        (QUERY, {"layer": 3}, UntrainedSizeError, r"layer must be one of \(2, 4, 6\), got 3"),
        (QUERY, {"exit": "bold"}, ExitError, r"exit must be one of \['balanced', 'fast'\], got 'bold'"),
    ],
)
def test_bad_queries_are_refused(retriever, query, options, error, message):
    with pytest.raises(error, match=message):
        retriever.invoke(query, **options)


async def test_bad_queries_are_refused_in_async_calls_too(retriever):
    with pytest.raises(UntrainedSizeError, match="got 3"):
        await retriever.ainvoke(QUERY, layer=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'top_k'"):
        await retriever.ainvoke(QUERY, top_k=3)


def test_another_model_is_refused_when_the_index_is_opened(retriever, encoder):
    encoder.fingerprint = "toy/2"
    with pytest.raises(
        IndexMismatchError, match=r"differ: fingerprint: index=toy/1, embeddings=toy/2\. Open the index"
    ):
        ElasticRetriever(vectorstore=retriever.vectorstore, embeddings=ElasticEmbeddings(encoder=encoder))


@pytest.mark.parametrize("of_embeddings", [True, False])
def test_queries_wider_than_the_documents_are_refused_when_the_index_is_opened(embeddings, texts, of_embeddings):
    store = ElasticRetriever.from_texts(texts, embeddings.with_budget(dim=8)).vectorstore
    wide, field = (embeddings.with_budget(dim=16), {}) if of_embeddings else (embeddings, {"dim": 16})
    with pytest.raises(IndexMismatchError, match=r"dim: index=8, embeddings=16"):
        ElasticRetriever(vectorstore=store, embeddings=wide, **field)
    narrow_enough = ElasticRetriever(vectorstore=store, embeddings=embeddings.with_budget(dim=16), dim=4)
    assert narrow_enough.invoke(QUERY)


def test_a_dim_wider_than_the_new_documents_is_refused(embeddings, texts):
    with pytest.raises(IndexMismatchError, match=r"dim: index=32, embeddings=64"):
        ElasticRetriever.from_texts(texts, embeddings, dim=64)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("one text",), {}, TypeError, "texts must be a list of str, got str"),
        ((["a", "b"], [{}]), {}, ValueError, "metadatas must have one entry per text, got 1 for 2 texts"),
        ((["a", "b"],), {"ids": ["1"]}, ValueError, "ids must have one entry per text, got 1 for 2 texts"),
        ((["a", "b"],), {"ids": ["1", "1"]}, ValueError, "position 1, '1', came before"),
        ((["a", "b"],), {"k": 0}, ValueError, r"k\n.*greater than or equal to 1"),
        ((["a", ""],), {}, InputError, "position 1 is blank"),
    ],
)
def test_what_cannot_be_indexed_is_refused_before_anything_is_embedded(
    encoder, embeddings, arguments, options, error, message
):
    texts, *metadatas = arguments
    with pytest.raises(error, match=message):
        ElasticRetriever.from_texts(texts, embeddings, *metadatas, **options)
    assert encoder.calls == []


def test_texts_in_place_of_documents_are_refused(embeddings):
    with pytest.raises(TypeError, match=r"position 1 is str\. Use from_texts or add_texts"):
        ElasticRetriever.from_documents([Document("a"), "b"], embeddings)


def test_documents_may_come_from_a_generator(embeddings, texts):
    retriever = ElasticRetriever.from_documents((Document(text) for text in texts), embeddings, k=1)
    assert contents(retriever.invoke(QUERY)) == ["a cat hunts at night"]


def test_no_documents_make_an_empty_retriever(embeddings):
    assert ElasticRetriever.from_documents([], embeddings).invoke(QUERY) == []


def test_the_bar_is_shown_for_documents_only(encoder, embeddings, texts):
    retriever = ElasticRetriever.from_texts(texts, embeddings, show_progress=True)
    retriever.invoke(QUERY)
    assert [(kind, options["bar"]) for kind, _, options in encoder.calls] == [("document", True), ("query", False)]


def test_a_run_tells_what_it_used_and_what_it_cost(retriever):
    handler = Recorder()
    retriever.invoke(QUERY, {"callbacks": [handler], "metadata": {"user": 1}}, k=3, layer=2, dim=8)
    assert handler.metadata == [
        {
            "user": 1,
            "ls_retriever_name": "elastic",
            "ls_vector_store_provider": "ElasticVectorStore",
            "ls_embedding_provider": "ElasticEmbeddings",
            "ls_embedding_model": "ToyEncoder",
            "ls_k": 3,
            "ls_layer": 2,
            "ls_dim": 8,
            "ls_exit": None,
        }
    ]
    ((name, report),) = handler.events
    assert name == "elastic_retrieval"
    assert set(report) == {"k", "layer", "dim", "exit", "exit_layer", "encode_ms", "search_ms"}
    assert [report[name] for name in ("k", "layer", "dim", "exit", "exit_layer")] == [3, 2, 8, None, None]
    assert report["encode_ms"] > 0
    assert report["search_ms"] > 0


def test_a_run_tells_the_defaults_it_took(retriever, embeddings):
    handler = Recorder()
    retriever.invoke(QUERY, {"callbacks": [handler]})
    retriever.model_copy(update={"embeddings": embeddings.with_budget(layer=4)}).invoke(QUERY, {"callbacks": [handler]})
    assert [(run["ls_layer"], run["ls_dim"], run["ls_k"]) for run in handler.metadata] == [(None, 32, 4), (4, 32, 4)]
    assert [(data["layer"], data["dim"], data["k"]) for _, data in handler.events] == [(None, 32, 4), (4, 32, 4)]


def test_a_run_tells_where_its_query_left(retriever, embeddings):
    handler = Recorder()
    retriever.invoke(QUERY, {"callbacks": [handler]}, exit="fast")
    early = retriever.model_copy(update={"exit": "balanced"})
    early.invoke(QUERY, {"callbacks": [handler]})
    early.invoke(QUERY, {"callbacks": [handler]}, layer=2)
    retriever.model_copy(update={"embeddings": embeddings.with_budget(exit="fast")}).invoke(
        QUERY, {"callbacks": [handler]}
    )
    assert [run["ls_exit"] for run in handler.metadata] == ["fast", "balanced", None, "fast"]
    assert [(data["exit"], data["exit_layer"]) for _, data in handler.events] == [
        ("fast", exit_layer(QUERY, "fast")),
        ("balanced", exit_layer(QUERY, "balanced")),
        (None, None),
        ("fast", exit_layer(QUERY, "fast")),
    ]


async def test_async_runs_tell_it_too(retriever):
    handler = Recorder()
    found = await retriever.ainvoke(QUERY, {"callbacks": [handler]}, k=3, layer=2, dim=8)
    assert contents(found) == contents(retriever.invoke(QUERY, k=3, layer=2, dim=8))
    assert handler.metadata[0]["ls_dim"] == 8
    assert handler.events[0][1]["layer"] == 2
    events = [event async for event in retriever.astream_events(QUERY, version="v2")]
    assert [event["data"]["dim"] for event in events if event["event"] == "on_custom_event"] == [32]


async def test_async_filters_see_the_context_of_the_caller(retriever):
    allowed = contextvars.ContextVar("allowed", default=None)
    allowed.set(3)
    found = await retriever.ainvoke(QUERY, filter=lambda document: document.metadata["n"] == allowed.get())
    assert [document.metadata["n"] for document in found] == [3]


def test_batches_and_threads_give_what_single_calls_give(retriever, texts):
    assert retriever.batch(texts, k=2) == [retriever.invoke(text, k=2) for text in texts]
    calls = [(text, k, layer, dim) for text in texts for k in (1, 3) for layer in (2, 6) for dim in (3, 9, 32)]

    def invoke(call):
        text, k, layer, dim = call
        return retriever.invoke(text, k=k, layer=layer, dim=dim)

    serial = [invoke(call) for call in calls]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(invoke, calls)) == serial


def test_a_batch_encodes_its_queries_in_one_call(retriever, encoder, texts):
    expected = [retriever.invoke(text, layer=2) for text in texts]
    encoder.calls.clear()
    handler = Recorder()
    assert retriever.batch(texts, {"max_concurrency": 1, "callbacks": [handler]}, layer=2) == expected
    assert [(kind, batch) for kind, batch, _ in encoder.calls] == [("query", texts)]
    assert len(handler.metadata) == len(handler.events) == len(texts)  # each query keeps a run of its own
    retriever.bind(layer=2).batch(texts)
    assert len(encoder.calls) == 2
    configurable = retriever.configurable_fields(layer=ConfigurableField("layer"))
    assert configurable.batch(texts, {"configurable": {"layer": 2}}) == expected  # one by one, as the host does it


async def test_async_batches_do_too(retriever, encoder, texts):
    expected = [retriever.invoke(text, dim=8) for text in texts]
    encoder.calls.clear()
    assert await retriever.abatch(texts, dim=8) == expected
    assert len(encoder.calls) == 1


def test_one_bad_query_of_a_batch_fails_alone(retriever, encoder, texts):
    good, bad, other = retriever.batch([texts[0], " ", texts[1]], return_exceptions=True)
    assert isinstance(bad, InputError)
    assert [good, other] == [retriever.invoke(texts[0]), retriever.invoke(texts[1])]
    with pytest.raises(UntrainedSizeError, match="got 3"):
        retriever.batch(texts, layer=3)
    assert all(isinstance(e, UntrainedSizeError) for e in retriever.batch(texts, layer=3, return_exceptions=True))
    assert all(isinstance(e, TypeError) for e in retriever.batch(texts, top_k=3, return_exceptions=True))
    assert all(isinstance(e, SizeError) for e in retriever.batch(texts, layer=0, return_exceptions=True))
    with pytest.raises(SizeError, match="layer must be an integer of at least 1 or None, got 0"):
        retriever.batch(texts, layer=0)


def test_a_store_of_others_is_searched_with_queries_on_a_budget(embeddings, texts):
    store = InMemoryVectorStore.from_texts(texts, embeddings)  # at full depth
    retriever = ElasticRetriever(vectorstore=store, k=2, layer=2)
    query = embeddings.embed_query(QUERY)
    assert contents(retriever.invoke(QUERY, layer=6)) == contents(store.similarity_search_by_vector(query, k=2))
    shallow = embeddings.encode([QUERY], kind="query", layer=2)[0].tolist()
    assert contents(retriever.invoke(QUERY)) == contents(store.similarity_search_by_vector(shallow, k=2))
    assert retriever.batch(texts)[2][0].page_content == texts[2]


def test_a_funnel_may_be_lengthened_per_call(embeddings, texts):
    funnel = ElasticRetriever.from_texts(texts, embeddings, shortlist_dim=1, k=1, fetch_k=1)
    exact = ElasticRetriever(vectorstore=ElasticVectorStore(embeddings, index=funnel.vectorstore.index), k=1)
    assert funnel.invoke(QUERY) != exact.invoke(QUERY)
    assert funnel.invoke(QUERY, fetch_k=6) == exact.invoke(QUERY)


def test_a_store_opened_in_spite_of_a_mismatch_can_be_used(retriever, encoder, tmp_path):
    retriever.vectorstore.save_local(tmp_path)
    encoder.fingerprint = "toy/2"
    renamed = ElasticEmbeddings(encoder=encoder)
    with pytest.warns(UserWarning, match="fingerprint"):
        store = ElasticVectorStore.load_local(tmp_path, renamed, on_mismatch="warn")
    assert ElasticRetriever(vectorstore=store).invoke(QUERY) == retriever.invoke(QUERY)


def test_budgets_and_embeddings_that_do_not_fit_are_refused_when_the_retriever_is_made(texts):
    fake = DeterministicFakeEmbedding(size=6)
    assert ElasticRetriever.from_texts(texts, fake, k=1, dim=4).invoke(texts[2])[0].page_content == texts[2]
    with pytest.raises(ValueError, match="layer needs ElasticEmbeddings, got layer=2 for DeterministicFakeEmbedding"):
        ElasticRetriever.from_texts(texts, fake, layer=2)

    class WithoutEmbeddings(InMemoryVectorStore):
        embeddings = None

    with pytest.raises(ValueError, match=r"WithoutEmbeddings has no embeddings of its own\. Pass embeddings"):
        ElasticRetriever(vectorstore=WithoutEmbeddings(fake))


def test_an_index_made_by_hand_can_be_searched(embeddings, texts):
    index = ElasticIndex(fingerprint=embeddings.fingerprint)
    retriever = ElasticRetriever(vectorstore=ElasticVectorStore(embeddings, index=index), k=1)
    assert retriever.invoke(QUERY) == []
    index.add([Document(text) for text in texts], embeddings.encode(texts))
    assert contents(retriever.invoke(QUERY)) == ["a cat hunts at night"]
