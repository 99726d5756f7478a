"""fastembed, transformers.js, infinity, sentence-transformers 5.7 open the folder, offline.

In float32 every pooling they have gives the vectors of torch. In other precisions they give those of ``OnnxEncoder`` in
the same precision: it batches otherwise, so float16 may differ by what a batch changes in it. None of them sets
``EXACT_SUMS`` of sessions.py, so on x86 without VNNI their int8 is that of an encoder that does not either.
"""

from unittest.mock import patch

import numpy as np
import pytest

from consumer_environments import CASES, ask_client, compat_python, node_folder_for, python_for
from st_plugins_export import OnnxEncoder
from st_plugins_export.precisions import FULL, PRECISIONS
from st_plugins_export.sessions import EXACT_SUMS

pytestmark = pytest.mark.slow


def test_fastembed_gives_the_vectors_of_torch(served, consumer_texts, assert_vectors, tmp_path):
    model, folder = served
    command = [python_for("fastembed"), CASES / "clients" / "fastembed_client.py"]
    texts = [*consumer_texts.short, consumer_texts.long]
    found = ask_client(command, folder, texts, tmp_path)
    ways = [f"{pooling}{more}" for pooling in ("MEAN", "CLS", "LAST_TOKEN") for more in ("", ", normalized")]
    assert sorted(found) == sorted(["finished", *ways])
    for way, vectors in found.items():
        assert_vectors(vectors, model.encode(texts), way)


def ask_transformers_js(folder, texts, scratch):
    packages = node_folder_for("transformers_js")
    return ask_client(["node", CASES / "clients" / "transformers_js_client.mjs", packages], folder, texts, scratch)


def test_transformers_js_gives_the_vectors_of_torch(served, consumer_texts, assert_vectors, tmp_path):
    model, folder = served
    found = ask_transformers_js(folder, consumer_texts.short, tmp_path)
    ways = [f"fp32, {pooling}{more}" for pooling in ("mean", "cls", "last_token") for more in ("", ", normalized")]
    assert sorted(found) == sorted(ways)
    for way, vectors in found.items():
        assert_vectors(vectors, model.encode(consumer_texts.short), way)


def test_transformers_js_cuts_the_last_token_off_a_long_text(minilm, minilm_export, consumer_texts, tmp_path):
    (found,) = ask_transformers_js(minilm_export[0], [consumer_texts.long], tmp_path)["fp32, mean"]
    expected = minilm.encode(consumer_texts.long)
    # Others keep [SEP]. A small difference, and a known one: when it is gone, the README can say so.
    assert 1e-3 < np.abs(found - expected).max() < 2e-2


def test_sentence_transformers_with_optimum_gives_the_vectors_of_torch(
    served, consumer_texts, assert_vectors, tmp_path
):
    model, folder = served  # written by sentence-transformers 6, read by 5.7
    command = [compat_python(), CASES / "clients" / "sentence_transformers_client.py"]
    texts = [*consumer_texts.short, consumer_texts.long]
    found = ask_client(command, folder, texts, tmp_path)
    assert_vectors(found["onnx/model.onnx"], model.encode(texts))


def test_infinity_gives_the_vectors_of_torch(served, consumer_texts, assert_vectors, tmp_path):
    model, folder = served
    command = [python_for("infinity"), CASES / "clients" / "infinity_client.py"]
    found = ask_client(command, folder, consumer_texts.short, tmp_path)
    assert sorted(found) == ["default", "mean"]  # the default is CLS, whatever the model does
    for way, vectors in found.items():
        assert_vectors(vectors, model.encode(consumer_texts.short), way)


def assert_precisions(found, ways, folder, texts, assert_vectors):
    """``ways``: what the client calls its vectors, by precision. A file that is quantized must not give float32's."""
    full = OnnxEncoder(folder).encode(texts)
    for precision, names in ways.items():
        with patch("st_plugins_export.sessions.EXACT_SUMS", (EXACT_SUMS[0], "0")):
            expected = OnnxEncoder(folder, precision=precision).encode(texts)
        assert precision == FULL or np.abs(expected - full).max() > 1e-5
        for name in names:
            allowed = max(1e-5, PRECISIONS[precision].max_alone_difference)
            assert_vectors(found[name], expected, name, tolerance=allowed)


def test_fastembed_opens_every_precision(served_lowered, consumer_texts, assert_vectors, tmp_path):
    folder, files = served_lowered
    command = [python_for("fastembed"), CASES / "clients" / "fastembed_client.py"]
    texts = [*consumer_texts.short, consumer_texts.long]
    ways = {name: [file, f"{file}, MEAN"] for name, file in files.items() if name != FULL}
    assert_precisions(ask_client(command, folder, texts, tmp_path), ways, folder, texts, assert_vectors)


def test_transformers_js_opens_every_precision(served_lowered, consumer_texts, assert_vectors, tmp_path):
    folder, files = served_lowered
    found = ask_transformers_js(folder, consumer_texts.short, tmp_path)
    dtypes = {"fp32": "fp32", "fp16": "fp16", "int8": "q8", "int8-blockwise": "blockwise"}
    assert dtypes.keys() == files.keys()
    ways = {name: [f"{dtype}, {pooling}" for pooling in ("mean", "cls")] for name, dtype in dtypes.items()}
    assert_precisions(found, ways, folder, consumer_texts.short, assert_vectors)


def test_sentence_transformers_with_optimum_opens_every_precision(
    served_lowered, consumer_texts, assert_vectors, tmp_path
):
    folder, files = served_lowered
    command = [compat_python(), CASES / "clients" / "sentence_transformers_client.py"]
    texts = [*consumer_texts.short, consumer_texts.long]
    ways = {name: [file] for name, file in files.items()}
    assert_precisions(ask_client(command, folder, texts, tmp_path), ways, folder, texts, assert_vectors)


def test_infinity_opens_every_precision(served_lowered, consumer_texts, assert_vectors, tmp_path):
    folder, files = served_lowered
    command = [python_for("infinity"), CASES / "clients" / "infinity_client.py"]
    ways = {name: [file] for name, file in files.items() if name != FULL}
    found = ask_client(command, folder, consumer_texts.short, tmp_path)
    assert_precisions(found, ways, folder, consumer_texts.short, assert_vectors)
