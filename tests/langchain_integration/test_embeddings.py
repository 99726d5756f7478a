import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pydantic import ValidationError

from langchain_st_plugins import ElasticEmbeddings, ElasticVectorStore
from st_plugins.errors import ExitError, InputError
from toy_encoder import exit_layer


def norms(vectors):
    return np.linalg.norm(vectors, axis=1)


def test_vectors_are_cut_first_and_normalized_after(encoder, embeddings, texts):
    full = encoder.encode_document(texts, show_progress_bar=False)
    assert norms(full).min() > 2  # the toy does not normalize, so someone must
    for dim in (1, 7, 32):
        expected = full[:, :dim] / norms(full[:, :dim])[:, np.newaxis]
        np.testing.assert_allclose(embeddings.encode(texts, dim=dim), expected, atol=1e-6)


def test_an_encoder_that_does_not_cut_is_cut_here(texts):
    class FixedWidth:
        def encode_query(self, texts, *, show_progress_bar, truncate_dim):
            return np.full((len(texts), 8), 2.0)

        encode_document = encode_query

    np.testing.assert_allclose(ElasticEmbeddings(encoder=FixedWidth(), dim=4).embed_query("a"), [0.5] * 4)


def test_queries_and_documents_take_their_own_way_through_the_model(encoder, embeddings):
    assert embeddings.embed_query("a cat") != embeddings.embed_documents(["a cat"])[0]
    assert [kind for kind, _, _ in encoder.calls] == ["query", "document"]


def test_the_text_reaches_the_encoder_unchanged(encoder, embeddings):
    embeddings.embed_documents(["two\nlines ", " tab\tbed"])
    assert encoder.calls[0][1] == ["two\nlines ", " tab\tbed"]


def test_lists_hold_python_floats_and_arrays_hold_float32(embeddings, texts):
    assert type(embeddings.embed_query("a")[0]) is float
    assert type(embeddings.embed_documents(texts)[0][0]) is float
    assert embeddings.encode(texts).dtype == np.float32


def test_options_are_passed_on_only_when_asked_for():
    class Recorder:
        def encode_query(self, texts, **options):
            self.options = options
            return np.ones((len(texts), 4))

        encode_document = encode_query

    recorder = Recorder()
    ElasticEmbeddings(encoder=recorder).embed_query("a")
    assert recorder.options == {"show_progress_bar": False}
    every = ElasticEmbeddings(encoder=recorder, layer=2, dim=3, batch_size=8, show_progress=True, allow_untrained=True)
    every.embed_documents(["a"])
    sizes = {"layer": 2, "truncate_dim": 3, "batch_size": 8, "allow_untrained": True}
    assert recorder.options == {**sizes, "show_progress_bar": True}
    every.embed_query("a")
    assert recorder.options == {**sizes, "show_progress_bar": False}
    every.encode(["a"], layer=np.int64(4), dim=2, show_progress=False)
    assert recorder.options == {**sizes, "layer": 4, "truncate_dim": 2, "show_progress_bar": False}


def test_with_budget_changes_the_size_and_shares_the_rest(encoder, embeddings, texts):
    small = embeddings.with_budget(layer=2, dim=8)
    assert (small.layer, small.dim) == (2, 8)
    assert small.with_budget(dim=4).layer == 2
    assert small.executor is embeddings.executor
    assert small.encoder is encoder
    np.testing.assert_array_equal(small.encode(texts), embeddings.encode(texts, layer=2, dim=8))


def test_queries_leave_early_and_documents_only_when_told(encoder, embeddings, texts):
    early = ElasticEmbeddings(encoder=encoder, exit="balanced")
    np.testing.assert_array_equal(early.encode(texts), embeddings.encode(texts))
    vectors, layers = early.encode_with_exits(texts)
    assert layers.tolist() == [exit_layer(text, "balanced") for text in texts]
    assert len(set(layers.tolist())) > 1
    for text, layer, vector in zip(texts, layers, vectors, strict=True):
        np.testing.assert_array_equal(vector, embeddings.encode([text], kind="query", layer=layer)[0])
    assert early.embed_query(texts[0]) == vectors[0].tolist()
    both = ElasticEmbeddings(encoder=encoder, document_exit="fast")
    documents, layers = both.encode_with_exits(texts, kind="document")
    assert layers.tolist() == [exit_layer(text, "fast") for text in texts]
    assert both.embed_documents(texts) == documents.tolist()
    assert both.encode_with_exits(texts, kind="query")[1] is None


def test_an_exit_goes_with_the_call_and_a_layer_alone_means_that_layer(encoder, embeddings, texts):
    early = embeddings.with_budget(exit="balanced", dim=8)
    assert early.encode_with_exits(texts, exit="fast")[1].tolist() == [exit_layer(text, "fast") for text in texts]
    capped = early.encode_with_exits(texts, layer=4, exit="balanced")[1]
    assert capped.tolist() == [exit_layer(text, "balanced", 4) for text in texts]
    vectors, layers = early.encode_with_exits(texts, layer=4)
    assert layers is None
    np.testing.assert_array_equal(vectors, embeddings.encode(texts, kind="query", layer=4, dim=8))
    assert early.with_budget(layer=4).exit is None
    assert early.with_budget(dim=4).exit == "balanced"
    assert ElasticEmbeddings(encoder=encoder, document_exit="fast").with_budget(layer=4).document_exit is None
    with pytest.raises(ExitError, match=r"exit must be one of \['balanced', 'fast'\], got 'bold'"):
        early.with_budget(exit="bold").embed_query("a cat")
    with pytest.raises(TypeError, match="name of a policy"):
        early.encode(texts, exit=True)


def test_every_exit_has_its_own_cache_namespace(encoder, embeddings):
    fields = [{}, {"exit": "fast"}, {"exit": "balanced"}, {"document_exit": "fast"}]
    fields.append({"exit": "fast", "document_exit": "balanced"})
    namespaces = [ElasticEmbeddings(encoder=encoder, **given).cache_namespace for given in fields]
    encoder.exit_fingerprints = {"fast": "toy/1 fast, calibrated again"}
    namespaces.append(ElasticEmbeddings(encoder=encoder, exit="fast").cache_namespace)
    assert len(set(namespaces)) == 6
    assert all(re.fullmatch(r"[A-Za-z0-9-]+", namespace) for namespace in namespaces)
    with pytest.raises(ExitError, match="got 'balanced'"):
        _ = ElasticEmbeddings(encoder=encoder, exit="balanced").cache_namespace


def test_no_texts_give_no_vectors_and_no_call(encoder, embeddings):
    assert embeddings.embed_documents([]) == []
    assert embeddings.encode([]).shape == (0, 0)
    assert embeddings.encode([], dim=8).shape == (0, 8)
    assert encoder.calls == []


def test_a_model_is_not_loaded_before_it_is_needed():
    embeddings = ElasticEmbeddings(model="there/is-no-such-model")
    assert embeddings.embed_documents([]) == []
    assert embeddings.with_budget(dim=8).model == "there/is-no-such-model"


def test_blank_documents_may_become_zeros_and_queries_never(encoder, embeddings):
    lenient = ElasticEmbeddings(encoder=encoder, empty_text="zero", document_exit="fast")
    texts = ["", "a cat", " \n", "a bank of the river"]
    vectors, layers = lenient.encode_with_exits(texts, kind="document", dim=8)
    expected, left = lenient.encode_with_exits([texts[1], texts[3]], kind="document", dim=8)
    np.testing.assert_array_equal(vectors, [np.zeros(8), expected[0], np.zeros(8), expected[1]])
    assert layers.tolist() == [0, left[0], 0, left[1]]
    assert " " not in [text for _, called, _ in encoder.calls for text in called]
    assert lenient.embed_documents(["", " "]) == [[0.0] * 32] * 2
    with pytest.raises(InputError, match="position 0 is blank"):
        lenient.embed_query(" ")
    with pytest.raises(InputError, match="position 0 is blank"):
        ElasticVectorStore(lenient).add_texts([""])


def test_embeddings_are_frozen(embeddings):
    with pytest.raises(ValidationError, match="frozen"):
        embeddings.dim = 8


def test_the_fingerprint_is_the_encoders_own(embeddings):
    class WithMethod:
        def encode_query(self, texts, **options): ...

        encode_document = encode_query

        def fingerprint(self):
            return "method"

    assert embeddings.fingerprint == "toy/1"
    assert ElasticEmbeddings(encoder=WithMethod()).fingerprint == "method"


def test_every_model_and_size_has_its_own_cache_namespace(encoder, embeddings):
    namespaces = [
        embeddings.with_budget(layer=layer, dim=dim).cache_namespace for layer in (None, 2) for dim in (None, 8)
    ]
    encoder.fingerprint = "toy/2"
    namespaces.append(ElasticEmbeddings(encoder=encoder).cache_namespace)
    assert len(set(namespaces)) == 5
    assert all(re.fullmatch(r"[A-Za-z0-9-]+", namespace) for namespace in namespaces)


def test_threads_may_mix_sizes(embeddings):
    """The toy also fails if two threads are in it at once."""
    sizes = itertools.islice(itertools.cycle(itertools.product((2, 4, 6), (4, 16, 32))), 200)
    calls = [(f"text number {i}", layer, dim) for i, (layer, dim) in enumerate(sizes)]

    def encode(call):
        text, layer, dim = call
        return embeddings.with_budget(dim=dim).encode([text], kind="query", layer=layer)

    serial = [encode(call) for call in calls]
    with ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(encode, calls))
    for one, other in zip(serial, parallel, strict=True):
        np.testing.assert_array_equal(one, other)


async def test_async_calls_give_the_same_vectors(embeddings, texts):
    assert await embeddings.aembed_documents(texts) == embeddings.embed_documents(texts)
    assert await embeddings.aembed_query("a cat") == embeddings.embed_query("a cat")
    with pytest.raises(TypeError, match="got str"):
        await embeddings.aembed_documents("a cat")


async def test_async_calls_leave_the_default_executor_alone(encoder, embeddings, texts):
    """Not a matter of milliseconds: unrelated work is done while six calls cannot even finish."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))  # one call on it would block everybody
    encoder.gate.clear()
    busy = [asyncio.create_task(embeddings.with_budget(dim=i + 1).aembed_documents(texts)) for i in range(6)]
    await asyncio.sleep(0)  # they start
    await asyncio.wait_for(asyncio.to_thread(len, texts), timeout=10)
    assert not any(task.done() for task in busy)
    encoder.gate.set()
    assert [len((await task)[0]) for task in busy] == [1, 2, 3, 4, 5, 6]


def test_importing_the_package_imports_no_torch_and_names_a_missing_extra():
    code = """
import json, sys

class NotInstalled:
    def find_spec(name, path=None, target=None):
        if name == "langchain_core":
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, NotInstalled)
try:
    import langchain_st_plugins
except ImportError as error:
    missing = [type(error).__name__, str(error)]
sys.meta_path.remove(NotInstalled)
import langchain_st_plugins

heavy = {"torch", "sentence_transformers", "st_plugins_export", "onnxruntime"}
print(json.dumps([*missing, sorted(heavy & set(sys.modules))]))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    error, message, heavy = json.loads(result.stdout)
    assert heavy == []
    assert error == "MissingExtraError"
    assert message.endswith("Run: pip install 'st-plugins[langchain]'")
