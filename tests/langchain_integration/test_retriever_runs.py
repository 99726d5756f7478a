import contextvars
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import ConfigurableField
from pydantic import ValidationError

from document_cases import contents
from langchain_st_plugins import ElasticRetriever
from st_plugins.errors import InputError, SizeError, UntrainedSizeError
from toy_encoder import exit_layer

QUERY = "a cat at night"


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


def test_a_misspelled_option_is_an_error(retriever, embeddings):
    handler = Recorder()
    with pytest.raises(TypeError, match="unexpected keyword argument 'top_k'"):
        retriever.invoke(QUERY, {"callbacks": [handler]}, top_k=3)
    assert len(handler.errors) == 1
    with pytest.raises(ValidationError, match=r"top_k\n.*Extra inputs are not permitted"):
        ElasticRetriever.from_texts(["a"], embeddings, top_k=3)


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
