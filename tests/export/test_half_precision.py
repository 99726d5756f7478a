"""The float16 pass: what becomes float16, what must not, and that graphs stay graphs, branches included."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from graph_cases import parse, run
from st_plugins_export.half_precision import to_half


def with_weight(model, name, array):
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
    return model


def kinds(model):
    """Type of each initializer by the name it had."""
    return {tensor.name.removesuffix("/half"): tensor.data_type for tensor in model.graph.initializer}


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


@pytest.fixture
def weight():
    return np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)


def test_a_product_is_computed_in_float16(x, weight):
    model = with_weight(parse("y = MatMul(x, w)"), "w", weight)
    before = model.SerializeToString()
    half = to_half(model)
    assert model.SerializeToString() == before
    assert kinds(half) == {"w": TensorProto.FLOAT16}
    expected = np.zeros((3, 5))
    for row, column in np.ndindex(3, 5):
        pairs = zip(x[row].astype(np.float16), weight[:, column].astype(np.float16), strict=True)
        expected[row, column] = sum(float(a) * float(b) for a, b in pairs)
    found = run(half, x=x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=4e-3, rtol=0)
    assert np.abs(found - x @ weight).max() > 1e-6  # it did lose something


def test_tables_and_what_follows_them_are_float16(weight):
    body = "rows = Gather(w, ids) moved = Transpose(rows) doubled = Add(moved, moved) y = Relu(doubled)"
    half = to_half(with_weight(parse(body, inputs="int64[N] ids"), "w", weight))
    assert kinds(half) == {"w": TensorProto.FLOAT16}
    assert [node.op_type for node in half.graph.node] == ["Gather", "Transpose", "Add", "Relu", "Cast"]
    ids = np.array([2, 0], dtype=np.int64)
    np.testing.assert_allclose(run(half, ids=ids), np.maximum(2 * weight[ids].T, 0), rtol=1e-3)


def test_lengths_and_what_is_divided_by_them_are_float32(x, weight):
    body = "p = MatMul(x, w) n = ReduceL2<axes=[1]>(p) y = Div(p, n)"
    half = to_half(with_weight(parse(body), "w", weight))
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(half).graph.value_info
    }
    assert types["n"] == TensorProto.FLOAT
    np.testing.assert_allclose(np.linalg.norm(run(half, x=x), axis=1), 1.0, atol=1e-6)


def test_angles_of_positions_are_float32():
    body = "p = Cast<to=1>(ids) a = Mul(p, f) y = Cos(a)"
    half = to_half(with_weight(parse(body, inputs="int64[N, 1] ids"), "f", [[0.5, 0.25]]))
    assert [node.op_type for node in half.graph.node] == ["Cast", "Mul", "Cos"]
    assert kinds(half) == {"f": TensorProto.FLOAT}


@pytest.mark.parametrize("shape", ["constant", "computed"])
def test_a_mask_beyond_float16_still_hides_and_never_gives_nan(x, shape):
    lowest = float(np.finfo(np.float32).min)
    masks = {
        "constant": "m = Where(hidden, low, zero)",
        "computed": "s = Cast<to=1>(hidden) m = Mul(s, low)",
    }
    body = f"{masks[shape]} p = MatMul(x, w) both = Add(m, p) twice = Add(both, m) y = Softmax(twice)"
    model = parse(body, inputs="float[N, 4] x, bool[N, 4] hidden")
    for name, value in (("low", lowest), ("zero", 0.0)):
        with_weight(model, name, value)
    half = to_half(with_weight(model, "w", np.eye(4)))
    hidden = np.array([[False, True, False, True], [True, True, True, True], [False] * 4])
    found = run(half, x=x, hidden=hidden)
    assert np.isfinite(found).all()
    assert (found[0, [1, 3]] == 0).all()
    np.testing.assert_allclose(found[[0, 2]], run(model, x=x, hidden=hidden)[[0, 2]], atol=1e-3)


def test_numbers_that_float16_takes_for_zero_stay(x, weight):
    model = with_weight(with_weight(parse("p = MatMul(x, w) y = Add(p, tiny)"), "w", weight), "tiny", 1e-12)
    half = to_half(model)
    assert kinds(half) == {"w": TensorProto.FLOAT16, "tiny": TensorProto.FLOAT}


def test_what_is_kept_stays_float32(x, weight):
    model = with_weight(parse("p = MatMul(x, w) r = Relu(p) y = Neg(r)"), "w", weight)
    half = to_half(model, kept={"p"})
    assert half.graph == model.graph  # no weight enters in float16, so nothing does
    mixed = to_half(model, kept={"r"})
    assert [node.op_type for node in mixed.graph.node] == ["Cast", "MatMul", "Cast", "Relu", "Neg"]


def test_branches_are_converted_and_cast_for_themselves(x, weight):
    body = """
      p = MatMul(x, w)
      y = If(choice) <
        then_branch = t () => (float[N, K] a) { q = MatMul(p, v) r = ReduceMax<axes=[1]>(p) a = Add(q, r) },
        else_branch = e () => (float[N, K] b) { b = Identity(p) }
      >
    """
    model = with_weight(parse(body, inputs="float[N, 4] x, bool choice"), "w", weight)
    branch = model.graph.node[1].attribute[0].g
    branch.initializer.append(numpy_helper.from_array(np.eye(5, dtype=np.float32), "v"))
    half = to_half(model)
    inner = next(attribute.g for attribute in half.graph.node[-1].attribute if attribute.name == "then_branch")
    assert [tensor.data_type for tensor in inner.initializer] == [TensorProto.FLOAT16]
    for choice in (np.array(True), np.array(False)):
        expected = run(model, x=x, choice=choice)
        np.testing.assert_allclose(run(half, x=x, choice=choice), expected, atol=6e-3)


def test_values_of_the_graph_around_are_cast_inside(x, weight):
    body = """
      r = Abs(x)
      y = If(choice) <
        then_branch = t () => (float[N, K] a) { a = MatMul(r, w) },
        else_branch = e () => (float[N, K] b) { c = MatMul(r, w) b = Neg(c) }
      >
    """
    model = with_weight(parse(body, inputs="float[N, 4] x, bool choice"), "w", weight)
    half = to_half(model)
    assert kinds(half) == {"w": TensorProto.FLOAT16}
    for choice in (np.array(True), np.array(False)):
        np.testing.assert_allclose(run(half, x=x, choice=choice), run(model, x=x, choice=choice), atol=6e-3)
