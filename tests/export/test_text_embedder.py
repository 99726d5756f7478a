"""What the servers run: the vectors of torch, whatever the order and the company of a text."""

import importlib.util
import subprocess
import sys

import numpy as np
import onnx
import pytest


@pytest.fixture(scope="module")
def text_embedder(exported):
    spec = importlib.util.spec_from_file_location("text_embedder", exported / "serving" / "text_embedder.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_gives_the_vectors_of_torch(text_embedder, exported, elastic, texts):
    embedder = text_embedder.TextEmbedder(exported)
    many = [*texts, *("b " * count for count in range(40))]  # more than one batch, not in the order of their lengths
    np.testing.assert_allclose(embedder.embed(many), elastic.encode(many), atol=1e-5, rtol=0)
    assert embedder.embed([]).shape == (0, 32)


def test_it_runs_other_graphs(text_embedder, exported, elastic, texts):
    embedder = text_embedder.TextEmbedder(exported, "onnx/model_L2_D16.onnx")
    expected = elastic.encode(texts, layer=2, truncate_dim=16)
    np.testing.assert_allclose(embedder.embed(texts), expected, atol=1e-5, rtol=0)


def test_texts_that_cannot_be_embedded_are_refused(text_embedder, exported):
    embedder = text_embedder.TextEmbedder(exported)
    with pytest.raises(ValueError, match="A text must be valid Unicode, and one is not"):
        embedder.embed(["a", "\ud800"])
    embedder._tokenizer.post_processor = None  # no special tokens
    with pytest.raises(ValueError, match="A text must have at least one token, and one has none"):
        embedder.embed(["a", ""])


def test_nan_never_leaves_it(text_embedder, damaged):
    graph = onnx.load(damaged / "onnx" / "model.onnx")
    for weight in graph.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(weight)
            weight.CopyFrom(onnx.numpy_helper.from_array(np.full_like(values, np.nan), weight.name))
    onnx.save(graph, damaged / "onnx" / "model.onnx")
    with pytest.raises(ValueError, match="a vector that is not finite"):
        text_embedder.TextEmbedder(damaged).embed(["a"])


def test_it_can_be_tried_from_a_shell(exported):
    command = [sys.executable, "-B", "serving/text_embedder.py", ".", "cats", "sleep"]
    run = subprocess.run(command, cwd=exported, capture_output=True, text=True, check=True)
    assert run.stdout.count("[") == 3
