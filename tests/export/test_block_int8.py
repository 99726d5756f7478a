"""Int8 weights by blocks: against loops, against ONNX Runtime's own quantizer, in branches, whatever the batch."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from graph_cases import kinds, parse, run
from st_plugins_export.block_int8 import BLOCK, quantized_blocks, to_block_int8

# Two blocks, of which one is not full.
WIDE = "float[N, 40] x"


def restored(weight):
    """The numbers (K, N) that int8 blocks stand for, one by one."""
    result = np.zeros_like(weight, dtype=np.float64)
    for start in range(0, len(weight), BLOCK):
        for column in range(weight.shape[1]):
            block = weight[start : start + BLOCK, column]
            step = max(abs(float(number)) for number in block) / 127 or 1.0
            result[start : start + BLOCK, column] = [round(float(number) / step) * step for number in block]
    return result


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32)


@pytest.fixture
def weight():
    """Two blocks, of which one is not full."""
    return np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32)


def close(found, expected):
    """Nothing but the weights is rounded."""
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


def test_blocks_by_hand():
    matrix = np.zeros((1, 34), np.float32)
    matrix[0, :3], matrix[0, 32:] = (254, -127, 3), (0.5, -1)
    values, scales = quantized_blocks(matrix)
    assert (values.dtype, values.shape) == (np.uint8, (1, 2, 32))
    assert values[0, 0, :4].tolist() == [255, 64, 130, 128]  # 1.5 steps round to 2, 63.5 to the even 64
    assert values[0, 1, :3].tolist() == [192, 1, 128]
    np.testing.assert_allclose(scales, [[2, 1 / 127]])
    assert quantized_blocks(np.zeros((2, 5), np.float32))[1].tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize("opset", [17, 20])
def test_a_product_is_that_of_restored_weights(x, weight, opset):
    model = parse("y = MatMul(x, w)", inputs=WIDE, w=weight, opset=opset)
    before = model.SerializeToString()
    lowered = to_block_int8(model)
    assert model.SerializeToString() == before
    assert kinds(lowered.graph) == ["MatMulNBits"]
    assert [tensor.data_type for tensor in lowered.graph.initializer] == [TensorProto.UINT8, TensorProto.FLOAT]
    found = run(lowered, x=x)
    close(found, x @ restored(weight))
    assert np.abs(found - x @ weight).max() > 1e-4  # it did lose something


def test_weights_are_those_of_onnx_runtime_s_quantizer_to_a_step(weight):
    """It takes -128 as well, so its steps are by 128/127 finer."""
    quantize = onnxruntime.capi._pybind_state.quantize_matmul_8bits
    values, scales = quantized_blocks(weight.T)
    theirs, their_scales = np.zeros((6, 2, BLOCK), np.uint8), np.zeros((6, 2), np.float32)
    padded = np.pad(weight, ((0, 24), (0, 0)))
    quantize(theirs, padded, their_scales, np.zeros((6, 2), np.uint8), BLOCK, 6, 40, True)
    ours, others = (  # (6, 40); what fills the last block up is never read
        (step[..., None] * (block.astype(int) - 128)).reshape(6, -1)[:, :40]
        for block, step in ((values, scales), (theirs, their_scales))
    )
    np.testing.assert_allclose(ours, others, atol=1.01 * scales.max(), rtol=0)
    np.testing.assert_allclose(np.abs(their_scales) * 128, scales * 127, rtol=1e-5)


def test_bias_rank_and_transposed_weights(x, weight):
    bias = np.float32([1, -2, 3, 0, 5, 9])
    expected = x @ restored(weight) + bias
    close(run(to_block_int8(parse("y = Gemm<transB=1>(x, w, b)", inputs=WIDE, w=weight.T, b=bias)), x=x), expected)
    padded = parse(
        "p = MatMul(x, w) y = Add(p, b)", inputs="float[B, T, 40] x", outputs="float[B, T, 6] y", w=weight, b=bias
    )
    close(run(to_block_int8(padded), x=x.reshape(1, 5, 40))[0], expected)


def test_no_row_depends_on_another_and_zeros_stay_zeros(x, weight):
    lowered = to_block_int8(parse("y = MatMul(x, w)", inputs=WIDE, w=weight))
    mixed = np.concatenate([x, 1e6 * x, np.zeros((1, 40), np.float32)])
    found = run(lowered, x=mixed)
    alone = np.concatenate([run(lowered, x=row[None]) for row in mixed])
    sizes = np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1)
    np.testing.assert_allclose(found / sizes, alone / sizes, atol=1e-6, rtol=0)
    assert not found[-1].any()
    assert run(lowered, x=mixed[:0]).shape == (0, 6)


def test_sums_of_extreme_values_are_exact():
    """Products of int8 must not saturate on processors without VNNI."""
    x, weight = np.ones((4, 256), np.float32), np.ones((256, 16), np.float32)
    found = run(to_block_int8(parse("y = MatMul(x, w)", inputs="float[N, 256] x", w=weight)), x=x)
    np.testing.assert_allclose(found, 256.0, rtol=1e-5)
    found = run(to_block_int8(parse("y = MatMul(x, w)", inputs="float[N, 256] x", w=-weight)), x=-x)
    np.testing.assert_allclose(found, 256.0, rtol=1e-5)


@pytest.mark.parametrize("choice", [True, False])
def test_branches_hold_their_blocks(x, weight, choice):
    body = """
      p = MatMul(x, w)
      y = If(choice) <
        then_branch = t () => (float[N, K] a) { q = MatMul(x, v) a = Add(q, p) },
        else_branch = e () => (float[N, K] b) { q = MatMul(x, w) b = Sub(q, p) }
      >
    """
    lowered = to_block_int8(parse(body, inputs="float[N, 40] x, bool choice", w=weight, v=2 * weight))
    inner = {attribute.name: attribute.g for attribute in lowered.graph.node[-1].attribute}
    assert all(kinds(branch).count("MatMulNBits") == 1 and len(branch.initializer) == 2 for branch in inner.values())
    expected = 3 * (x @ restored(weight)) if choice else np.zeros((5, 6))
    close(run(lowered, x=x, choice=np.array(choice)), expected)


def test_large_tables_hold_blocks_of_each_row():
    table = np.random.default_rng(0).normal(size=(1000, 40)).astype(np.float32)
    table[3] *= 1000
    for body in ("y = Gather(w, ids)", "y = Gather<axis=0>(w, ids)"):
        lowered = to_block_int8(parse(body, inputs="int64[N] ids", w=table))
        assert kinds(lowered.graph) == ["GatherBlockQuantized"]
        assert {tensor.name for tensor in lowered.graph.initializer} == {"w/blocks", "w/scales"}
        ids = np.array([3, 0, 999, 3])
        np.testing.assert_allclose(run(lowered, ids=ids), restored(table[ids].T).T, rtol=1e-5, atol=1e-5)


def test_a_table_that_is_read_twice_is_held_once():
    table = np.ones((1000, 32), np.float32)
    body = "p = Gather(w, ids) q = Gather(w, more) y = Add(p, q)"
    lowered = to_block_int8(parse(body, inputs="int64[N] ids, int64[N] more", w=table))
    assert len(lowered.graph.initializer) == 2
    assert run(lowered, ids=np.array([0]), more=np.array([1])) == pytest.approx(2)


def test_small_tables_and_other_axes_stay():
    small, wide = np.ones((999, 4), np.float32), np.ones((1000, 4), np.float32)
    for body, table in (("y = Gather(w, ids)", small), ("y = Gather<axis=1>(w, ids)", wide)):
        lowered = to_block_int8(parse(body, inputs="int64[N] ids", w=table))
        assert kinds(lowered.graph) == ["Gather"]
        assert [tensor.name for tensor in lowered.graph.initializer] == ["w"]
