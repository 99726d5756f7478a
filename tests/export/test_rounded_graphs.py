"""A graph is taken apart in front of its rounding and put together again, as it was."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

from st_plugins_export.lowering import lowered
from st_plugins_export.precisions import PRECISIONS, wanted_precisions
from st_plugins_export.rounded_graphs import UNROUNDED, hide_unrounded, join, split_at_rounding

# What lies behind reads two more values, one of them of integers; and a weight that is used in front, too.
ROUNDS = f"""<ir_version: 8, opset_import: ["": 17]>
g (float[N, 2] x) => (float[N, 2] first, float[N, 2] sentence_embedding)
<float[2, 2] w = {{0.5, 0.25, -0.3, 1.1}}> {{
    y = MatMul(x, w)
    {UNROUNDED} = Neg(y)
    shape = Shape(y)
    turned = MatMul({UNROUNDED}, w)
    rounded = Round(turned)
    sentence_embedding = Add(rounded, y)
    first = Expand(sentence_embedding, shape)
}}"""
X = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32) * 4


def run(model):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": X})


def test_taking_apart_and_putting_together_changes_nothing():
    model = parser.parse_model(ROUNDS)
    before = model.SerializeToString()
    parts = split_at_rounding(model)
    assert model.SerializeToString() == before
    assert [node.op_type for node in parts.front.graph.node] == ["MatMul", "Neg", "Shape"]
    assert [node.op_type for node in parts.end.nodes] == ["MatMul", "Round", "Add", "Expand"]
    assert {output.name for output in parts.front.graph.output} == {UNROUNDED, "y", "shape"}
    whole = join(parts.front, parts)
    onnx.checker.check_model(whole)
    assert [output.name for output in whole.graph.output] == ["first", "sentence_embedding"]
    for found, expected in zip(run(whole), run(model), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", [name for name in PRECISIONS if name != "fp32"])
def test_only_what_is_in_front_changes_its_precision(name):
    precision = wanted_precisions([name])[-1]
    found = lowered(parser.parse_model(ROUNDS), precision, [{"x": X}]).model
    onnx.checker.check_model(found)
    kinds = [node.op_type for node in found.graph.node]
    assert kinds[-4:] == ["MatMul", "Round", "Add", "Expand"]
    assert kinds[:3] != ["MatMul", "Neg", "Shape"]
    assert [tensor.name for tensor in found.graph.initializer].count("w") == 1
    np.testing.assert_array_equal(run(found)[0], run(found)[1])


def test_a_graph_that_rounds_nothing_is_left_alone():
    model = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) { y = Neg(x) }')
    assert split_at_rounding(model) is None


def test_the_third_output_of_a_trace_becomes_a_value_inside():
    model = parser.parse_model(ROUNDS)
    model.graph.output.append(onnx.helper.make_tensor_value_info(UNROUNDED, onnx.TensorProto.FLOAT, ["N", 2]))
    hide_unrounded(model)
    assert [output.name for output in model.graph.output] == ["first", "sentence_embedding"]
    assert len(run(model)) == 2
