import pytest
from langchain_core.callbacks import BaseCallbackHandler
from pydantic import ValidationError

from langchain_st_plugins import ElasticRetriever, create_budget_tool
from st_plugins.errors import ExitError, SizeError, UntrainedSizeError

EFFORTS = {"fast": {"layer": 2, "dim": 8, "k": 1}, "balanced": {"exit": "balanced"}, "best": {}}
QUERY = "a cat at night"


@pytest.fixture
def retriever(embeddings, texts):
    return ElasticRetriever.from_texts(texts, embeddings, k=2)


@pytest.fixture
def tool(retriever):
    return create_budget_tool(retriever, "facts", "Facts.", efforts=EFFORTS)


def call(tool, **arguments):
    return tool.invoke({"type": "tool_call", "id": "1", "name": tool.name, "args": arguments})


@pytest.mark.parametrize("effort", list(EFFORTS))
def test_every_effort_is_a_call_of_the_retriever(tool, retriever, effort):
    message = call(tool, query=QUERY, effort=effort)
    documents = retriever.invoke(QUERY, **EFFORTS[effort])
    assert message.artifact == documents
    assert message.content == "\n\n".join(document.page_content for document in documents)


def test_a_model_sees_the_efforts_and_what_they_mean(tool):
    schema = tool.tool_call_schema.model_json_schema()
    effort = schema["properties"]["effort"]
    assert (effort["enum"], effort["default"], schema["required"]) == (list(EFFORTS), "fast", ["query"])
    assert effort["description"] == (
        "how hard to try, fast: layer=2, dim=8, k=1; balanced: exit=balanced; best: the default"
    )
    assert set(schema["properties"]) == {"query", "effort"}


def test_the_default_effort_is_the_first_or_the_named_one(retriever, tool):
    assert call(tool, query=QUERY).artifact == retriever.invoke(QUERY, **EFFORTS["fast"])
    best = create_budget_tool(retriever, "facts", "Facts.", efforts=EFFORTS, default="best", document_separator="|")
    assert call(best, query=QUERY).content.count("|") == 1


@pytest.mark.parametrize("arguments", [{"query": QUERY, "effort": "bogus"}, {"query": " \n"}, {"effort": "fast"}])
def test_bad_arguments_of_a_model_are_validation_errors_that_it_can_repair(tool, arguments):
    with pytest.raises(ValidationError, match="effort|query"):
        call(tool, **arguments)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"efforts": {}}, ValueError, r"efforts must name at least one budget, got none\. For instance"),
        ({"efforts": {"fast": {"depth": 2}}}, ValueError, r"An effort may set .*, but 'fast' sets \['depth'\]"),
        ({"efforts": EFFORTS, "default": "deep"}, ValueError, r"one of the efforts, \['fast', .*, got 'deep'"),
        ({"efforts": {"fast": {"layer": 3}}}, UntrainedSizeError, "got 3"),
        ({"efforts": {"fast": {"dim": 99}}}, SizeError, "dim must be from 1 to 32"),
        ({"efforts": {"fast": {"exit": "bold"}}}, ExitError, "got 'bold'"),
    ],
)
def test_bad_budgets_are_refused_before_an_agent_can_meet_them(retriever, options, error, message):
    with pytest.raises(error, match=message):
        create_budget_tool(retriever, "facts", "Facts.", **options)


class Recorder(BaseCallbackHandler):
    def __init__(self):
        self.runs, self.events = [], []

    def on_tool_start(self, serialized, input_str, *, run_id, **kwargs):
        self.runs.append(("tool", run_id, kwargs["parent_run_id"]))

    def on_retriever_start(self, serialized, query, *, run_id, metadata, **kwargs):
        self.runs.append(("retriever", run_id, kwargs["parent_run_id"]))
        self.layer = metadata["ls_layer"]

    def on_custom_event(self, name, data, **kwargs):
        self.events.append((name, data["layer"]))


async def test_the_retriever_is_traced_inside_the_tool(tool):
    for run in ("sync", "async"):
        handler = Recorder()
        arguments, config = {"query": QUERY, "effort": "fast"}, {"callbacks": [handler]}
        _ = tool.invoke(arguments, config) if run == "sync" else await tool.ainvoke(arguments, config)
        (first, tool_run, _), (second, _, parent) = handler.runs
        assert (first, second, parent, handler.layer) == ("tool", "retriever", tool_run, 2)
        assert handler.events == [("elastic_retrieval", 2)]
