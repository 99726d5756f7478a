"""Int8 products with a scale for each token: against loops, by hand, in branches, and never saturated."""

import numpy as np
import pytest
from onnx import TensorProto

from graph_cases import kinds, parse, run
from st_plugins_export.row_int8 import quantized_columns, to_row_int8


def product_by_loops(x, weight, smoothing):
    """The formula at the top of row_int8.py, number by number."""
    x, weight = x / smoothing, weight * smoothing[:, None]
    result = np.zeros((len(x), weight.shape[1]))
    for i, row in enumerate(x):
        r = max(abs(number) for number in row) / 127
        for j, column in enumerate(weight.T):
            c = max(abs(number) for number in column) / 127
            total = sum(round(float(a / r)) * round(float(b / c)) for a, b in zip(row, column, strict=True))
            result[i, j] = r * c * total
    return result


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


@pytest.fixture
def weight():
    return np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)


def test_columns_by_hand():
    values, scales = quantized_columns(np.array([[254, 0, 1], [-127, 0, 0.4]], np.float32))
    assert values.dtype == np.int8
    assert values.tolist() == [[127, 0, 127], [-64, 0, 51]]
    np.testing.assert_allclose(scales, [2, 1, 1 / 127])


def test_a_product_by_hand():
    found = run(
        to_row_int8(parse("y = MatMul(x, w)", inputs="float[N, 2] x", w=[[127], [63.6]])), x=np.float32([[2, 1]])
    )
    # r = 2 / 127, so 1 is 63.5 steps and rounds to the even 64; c = 1, so 63.6 rounds to 64.
    assert found[0, 0] == pytest.approx(2 / 127 * (127 * 127 + 64 * 64), rel=1e-6)


@pytest.mark.parametrize("opset", [17, 18])
def test_a_product_is_that_of_loops(x, weight, opset):
    model = parse("y = MatMul(x, w)", w=weight, opset=opset)
    before = model.SerializeToString()
    lowered = to_row_int8(model)
    assert model.SerializeToString() == before
    assert "MatMul" not in kinds(lowered.graph)
    assert {tensor.name for tensor in lowered.graph.initializer if tensor.data_type == TensorProto.INT8} == {"y/int8"}
    np.testing.assert_allclose(run(lowered, x=x), product_by_loops(x, weight, np.ones(4)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(run(lowered, x=x), x @ weight, atol=0.1)


def test_smoothing_moves_large_columns_into_the_weight(x, weight):
    x[:, 1] *= 100
    smoothing = np.float32([1, 50, 2, 0.5])
    lowered = to_row_int8(parse("y = MatMul(x, w)", w=weight), {"x": smoothing})
    np.testing.assert_allclose(run(lowered, x=x), product_by_loops(x, weight, smoothing), rtol=1e-4, atol=1e-4)


def test_bias_rank_and_transposed_weights(x, weight):
    bias = np.float32([1, -2, 3])
    expected = product_by_loops(x, weight, np.ones(4)) + bias
    gemm = to_row_int8(parse("y = Gemm<transB=1>(x, w, b)", w=weight.T, b=bias))
    np.testing.assert_allclose(run(gemm, x=x), expected, rtol=1e-5, atol=1e-6)
    padded = parse(
        "p = MatMul(x, w) y = Add(p, b)", inputs="float[B, T, 4] x", outputs="float[B, T, 3] y", w=weight, b=bias
    )
    np.testing.assert_allclose(run(to_row_int8(padded), x=x.reshape(1, 5, 4))[0], expected, rtol=1e-5, atol=1e-6)


def test_an_activation_is_quantized_once_for_all_its_readers(x, weight):
    lowered = to_row_int8(parse("p = MatMul(x, w) q = MatMul(x, v) y = Add(p, q)", w=weight, v=2 * weight))
    assert kinds(lowered.graph).count("QuantizeLinear") == 1
    np.testing.assert_allclose(run(lowered, x=x), 3 * product_by_loops(x, weight, np.ones(4)), rtol=1e-4, atol=1e-5)


def test_no_row_depends_on_another_and_zeros_stay_zeros(x, weight):
    lowered = to_row_int8(parse("y = MatMul(x, w)", w=weight))
    mixed = np.concatenate([x, 1e6 * x, np.zeros((1, 4), np.float32)])
    found = run(lowered, x=mixed)
    alone = np.concatenate([run(lowered, x=row[None]) for row in mixed])
    np.testing.assert_array_equal(found, alone)
    assert not found[-1].any()
    assert run(lowered, x=mixed[:0]).shape == (0, 3)


def test_sums_of_extreme_values_are_exact():
    """Without its setting, ONNX Runtime adds pairs in 16 bits on processors that have no VNNI: 127 * 255 twice."""
    x, weight = np.ones((4, 256), np.float32), np.ones((256, 16), np.float32)
    found = run(to_row_int8(parse("y = MatMul(x, w)", inputs="float[N, 256] x", w=weight)), x=x)
    np.testing.assert_allclose(found, 256.0, rtol=1e-5)


@pytest.mark.parametrize("choice", [True, False])
def test_branches_are_quantized_by_rows_from_around_them(x, weight, choice):
    body = """
      p = MatMul(x, w)
      y = If(choice) <
        then_branch = t () => (float[N, K] a) { q = MatMul(x, v) r = Abs(x) s = MatMul(r, w) a = Add(q, s) },
        else_branch = e () => (float[N, K] b) { q = MatMul(x, w) b = Sub(q, p) }
      >
    """
    model = parse(body, inputs="float[N, 4] x, bool choice", w=weight, v=2 * weight)
    lowered = to_row_int8(model)
    inner = {attribute.name: attribute.g for attribute in lowered.graph.node[-1].attribute}
    assert kinds(inner["then_branch"]).count("QuantizeLinear") == 1  # of r; x has its rows already
    assert kinds(inner["else_branch"]).count("QuantizeLinear") == 0
    products = [product_by_loops(given, weight, np.ones(4)) for given in (x, np.abs(x))]
    expected = 2 * products[0] + products[1] if choice else np.zeros((5, 3))
    np.testing.assert_allclose(run(lowered, x=x, choice=np.array(choice)), expected, rtol=1e-4, atol=1e-5)


def test_large_tables_have_a_scale_for_each_row():
    table = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
    table[3] *= 1000
    for body in ("y = Gather(w, ids)", "y = Gather<axis=0>(w, ids)"):
        lowered = to_row_int8(parse(body, inputs="int64[N] ids", w=table))
        assert [tensor.data_type for tensor in lowered.graph.initializer if tensor.name == "w/int8"] == [
            TensorProto.INT8
        ]
        assert "w" not in {tensor.name for tensor in lowered.graph.initializer}
        ids = np.array([3, 0, 999, 3])
        steps = np.abs(table[ids]).max(axis=1, keepdims=True) / 127
        np.testing.assert_allclose(run(lowered, ids=ids), steps * np.rint(table[ids] / steps), rtol=1e-5)


def test_small_tables_and_other_axes_stay():
    small, wide = np.ones((999, 4), np.float32), np.ones((1000, 4), np.float32)
    for body, table in (("y = Gather(w, ids)", small), ("y = Gather<axis=1>(w, ids)", wide)):
        lowered = to_row_int8(parse(body, inputs="int64[N] ids", w=table))
        assert [node.op_type for node in lowered.graph.node] == ["Gather"]
        assert [tensor.name for tensor in lowered.graph.initializer] == ["w"]
