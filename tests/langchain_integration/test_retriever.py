import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.runnables import ConfigurableField
from langchain_core.vectorstores import InMemoryVectorStore

from document_cases import contents
from langchain_st_plugins import ElasticEmbeddings, ElasticRetriever, ElasticVectorStore
from langchain_st_plugins.index import ElasticIndex
from st_plugins.errors import ExitError, IndexMismatchError, InputError, SizeError, UntrainedSizeError

QUERY = "a cat at night"


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
