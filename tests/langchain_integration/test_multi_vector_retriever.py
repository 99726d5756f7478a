import asyncio

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.runnables import ConfigurableField
from langchain_tests.integration_tests import RetrieversIntegrationTests
from pydantic import ValidationError

from document_cases import contents
from langchain_st_plugins import MultiVectorRetriever
from st_plugins.errors import InputError, SizeError
from toy_encoder import ToyTokenEncoder

pytest.importorskip("torch")  # without it there is no search; the rest of this package needs none

QUERY = "a cat at night"


@pytest.fixture
def retriever(texts):
    metadatas = [{"n": row} for row in range(len(texts))]
    return MultiVectorRetriever.from_texts(texts, ToyTokenEncoder(), metadatas, ids=[f"id-{row}" for row in range(6)])


class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def use(self, texts):
        self.built = MultiVectorRetriever.from_texts(texts, ToyTokenEncoder())

    @property
    def retriever_constructor(self):
        return MultiVectorRetriever

    @property
    def retriever_constructor_params(self):
        return {"index": self.built.index}

    @property
    def retriever_query_example(self):
        return QUERY


def test_the_best_document_comes_first_with_its_metadata_and_maxsim(retriever):
    found = retriever.invoke(QUERY)
    assert len(found) == 4
    assert (found[0].id, found[0].page_content) == ("id-5", "a cat hunts at night")
    assert found[0].metadata == {"n": 5, "score": pytest.approx(4, abs=0.1)}  # each of four words finds itself
    scores = [document.metadata["score"] for document in found]
    assert scores == sorted(scores, reverse=True)


def test_a_call_goes_before_bind_before_configurable_before_field(retriever):
    configurable = retriever.configurable_fields(k=ConfigurableField("k"), candidates=ConfigurableField("candidates"))
    config = {"configurable": {"k": 3, "candidates": 5}}
    assert len(configurable.invoke(QUERY, config)) == 3
    assert len(configurable.bind(k=2).invoke(QUERY, config)) == 2
    assert len(configurable.bind(k=2).invoke(QUERY, config, k=1)) == 1
    assert len(configurable.invoke(QUERY)) == 4
    with pytest.raises(SizeError, match="needs 1 <= k <= candidates, got 6 and 5"):
        configurable.invoke(QUERY, config, k=6)


def test_one_candidate_is_all_that_can_be_found(retriever):
    assert len(retriever.invoke(QUERY, k=1, candidates=1)) == 1
    exact = retriever.invoke(QUERY, k=6, candidates=6)
    assert contents(retriever.invoke(QUERY, k=6)) == contents(exact)


def test_carved_queries_score_at_most_as_much(retriever):
    exact = {document.id: document.metadata["score"] for document in retriever.invoke("cat cat mat", k=6)}
    carved = retriever.invoke("cat cat mat", k=6, carving_threshold=0.1)
    assert all(document.metadata["score"] <= exact[document.id] + 1e-5 for document in carved)
    fields = retriever.model_copy(update={"carving_threshold": 0.1})
    assert fields.invoke("cat cat mat", k=6) == carved


def test_scores_go_under_the_wanted_key(retriever):
    assert set(retriever.model_copy(update={"score_key": "maxsim"}).invoke(QUERY)[0].metadata) == {"n", "maxsim"}
    assert retriever.model_copy(update={"score_key": None}).invoke(QUERY)[0].metadata == {"n": 5}


async def test_async_calls_give_the_same(retriever, texts):
    assert await retriever.ainvoke(QUERY, k=3) == retriever.invoke(QUERY, k=3)
    found = await asyncio.gather(*(retriever.ainvoke(text) for text in texts))
    assert found == [retriever.invoke(text) for text in texts] == retriever.batch(texts)
    assert await retriever.aadd_documents([Document("zebras", id="new")], show_progress=True) == ["new"]
    assert retriever.index.encoder.calls[-1] == ("document", ["zebras"], True)
    assert (await retriever.ainvoke("zebras", k=1))[0].id == "new"


def test_documents_can_be_added_later(texts):
    retriever = MultiVectorRetriever.from_documents([], ToyTokenEncoder(), k=1)
    assert retriever.invoke(QUERY) == []
    ids = retriever.add_documents((Document(text) for text in texts), batch_size=4)
    assert len(set(ids)) == 6
    assert contents(retriever.invoke(QUERY)) == ["a cat hunts at night"]
    assert retriever.invoke(QUERY)[0].id == ids[5]


def test_a_run_tells_what_it_used(retriever):
    class Recorder(BaseCallbackHandler):
        def on_retriever_start(self, serialized, query, *, metadata, **kwargs):
            self.metadata = metadata

    recorder = Recorder()
    retriever.invoke(QUERY, {"callbacks": [recorder]}, candidates=6)
    assert recorder.metadata == {
        "ls_retriever_name": "multivector",
        "ls_embedding_provider": "ToyTokenEncoder",
        "ls_k": 4,
        "ls_candidates": 6,
    }


def test_bad_queries_and_options_are_refused(retriever, texts):
    with pytest.raises(InputError, match="position 0 is blank"):
        retriever.invoke(" ")
    with pytest.raises(ValueError, match="k must be an integer of at least 1, got 0"):
        retriever.invoke(QUERY, k=0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'top_k'"):
        retriever.invoke(QUERY, top_k=3)
    with pytest.raises(ValidationError, match=r"top_k\n.*Extra inputs are not permitted"):
        MultiVectorRetriever.from_texts(texts, ToyTokenEncoder(), top_k=3)
    with pytest.raises(ValueError, match="metadatas must have one entry per text, got 1 for 6 texts"):
        MultiVectorRetriever.from_texts(texts, ToyTokenEncoder(), [{}])
