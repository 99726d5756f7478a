"""Operators that float16 spoils stay float32, those alone, and are counted."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from st_plugins_export.closeness import cosines, run_graph
from st_plugins_export.half_fallbacks import half_with_fallbacks
from st_plugins_export.precisions import PRECISIONS

HALF = PRECISIONS["fp16"]


def network(scale):
    """A product whose numbers are that large, and one that makes them small again."""
    body = "a = MatMul(x, w) b = Relu(a) sentence_embedding = MatMul(b, v)"
    text = f'<ir_version: 8, opset_import: ["": 17]> g (float[N, 4] x) => (float[N, 3] sentence_embedding) {{{body}}}'
    model = parser.parse_model(text)
    random = np.random.default_rng(0)
    for name, shape, factor in (("w", (4, 6), scale), ("v", (6, 3), 1 / scale)):
        array = (factor * random.normal(size=shape)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


@pytest.fixture
def batches():
    return [{"x": np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)}]


def similar(model, half, batches):
    return cosines(run_graph(model, batches)[0], run_graph(half, batches)[0])


def test_ordinary_numbers_need_no_fallback(batches):
    model = network(1.0)
    half, kept = half_with_fallbacks(model, HALF, batches)
    assert kept == ()
    assert all(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in half.graph.initializer)
    assert similar(model, half, batches).min() > 0.99999


def test_numbers_beyond_float16_stay_float32(batches):
    model = network(15_000.0)
    half, kept = half_with_fallbacks(model, HALF, batches)
    assert kept == ("a", "b", "sentence_embedding")  # two compute such numbers, the last one reads them
    assert similar(model, half, batches).min() > 0.9999


def test_only_the_operators_around_them_stay(batches):
    model = network(15_000.0)
    model.graph.node[-1].output[0] = "c"
    model.graph.node.append(onnx.helper.make_node("MatMul", ["c", "u"], ["sentence_embedding"]))
    model.graph.initializer.append(numpy_helper.from_array(np.eye(3, dtype=np.float32), "u"))
    half, kept = half_with_fallbacks(model, HALF, batches)
    assert kept == ("a", "b", "c")
    assert similar(model, half, batches).min() > 0.9999


def test_operators_fall_back_until_the_vectors_are_close(batches):
    model = network(1.0)
    strict = HALF.__class__("fp16", "_fp16", 1 - 1e-12, 1.0, 1.0)
    half, kept = half_with_fallbacks(model, strict, batches)
    assert kept == ("a", "b", "sentence_embedding")
    np.testing.assert_array_equal(run_graph(half, batches)[0], run_graph(model, batches)[0])
