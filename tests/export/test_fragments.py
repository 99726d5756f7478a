"""Cutting graphs and putting the parts into others."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper, parser

from st_plugins_export.fragments import cut, place


@pytest.fixture
def model():
    model = parser.parse_model(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[N] a) => (float[N] f)
        <float[1] three = {3}, float[1] five = {5}, float[1] unused = {7}>
        {
           b = Add(a, three)
           c = Neg(a)
           d = Mul(b, three)
           e = Clip(d, , five)
           f = Add(e, b)
        }
        """
    )
    onnx.checker.check_model(model)
    return model


def run(nodes, weights, inputs, output):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None]) for name in inputs],
        [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, [None])],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    values = {name: np.asarray(value, dtype=np.float32) for name, value in inputs.items()}
    return onnxruntime.InferenceSession(made.SerializeToString()).run([output], values)[0].tolist()


def test_only_what_is_needed_is_cut_out_in_its_order(model):
    fragment = cut(model, ["a"], ["f"])
    assert [node.op_type for node in fragment.nodes] == ["Add", "Mul", "Clip", "Add"]
    assert set(fragment.weights) == {"three", "five"}
    assert (fragment.inputs, fragment.outputs) == ({"a"}, {"b", "d", "e", "f"})


def test_what_is_given_is_not_computed_again(model):
    fragment = cut(model, ["b"], ["f"])
    assert [node.op_type for node in fragment.nodes] == ["Mul", "Clip", "Add"]
    assert fragment.inputs == {"b"}
    assert set(cut(model, ["d"], ["e"]).weights) == {"five"}


def test_a_placed_fragment_computes_the_same_under_other_names(model):
    placed = place(cut(model, ["b"], ["f"]), "x/", {"b": "outside"})
    assert {weight.name for weight in placed.weights.values()} == {"x/three", "x/five"} == set(placed.weights)
    assert placed.inputs == {"outside"}
    # e = min(3 * b, 5); f = e + b
    assert run(placed.nodes, placed.weights.values(), {"outside": [1.0, 2.0]}, "x/f") == [4.0, 7.0]


def test_two_placed_fragments_share_a_named_weight(model):
    names = {"three": "three", "five": "five"}
    first = place(cut(model, ["b"], ["f"]), "x/", {**names, "b": "outside"})
    second = place(cut(model, ["b"], ["f"]), "y/", {**names, "b": "x/f"})
    assert not first.weights
    assert not second.weights
    weights = [weight for weight in model.graph.initializer if weight.name in names]
    assert run([*first.nodes, *second.nodes], weights, {"outside": [1.0]}, "y/f") == [9.0]


def test_an_input_that_is_not_given_stays_so(model):
    placed = place(cut(model, ["d"], ["e"]), "x/", {})
    assert list(placed.nodes[0].input) == ["x/d", "", "x/five"]
    assert placed.inputs == {"x/d"}


def test_the_graph_that_is_cut_stays_as_it_is(model):
    before = model.SerializeToString()
    fragment = place(cut(model, ["b"], ["f"]), "x/", {})
    fragment.weights["x/three"].CopyFrom(numpy_helper.from_array(np.zeros(1, np.float32), "x/three"))
    assert model.SerializeToString() == before


@pytest.fixture
def branching():
    return parser.parse_model(
        """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[N] a, bool c) => (float[N] f)
        <float[1] three = {3}>
        {
           b = Neg(a)
           f = If(c) <
               then_branch = yes () => (float[N] y) { x = Mul(b, three) y = Add(x, three) },
               else_branch = no () => (float[N] n) { n = Identity(b) }
           >
        }
        """
    )


def test_what_a_branch_reads_is_cut_out_too(branching):
    fragment = cut(branching, ["a", "c"], ["f"])
    assert [node.op_type for node in fragment.nodes] == ["Neg", "If"]
    assert set(fragment.weights) == {"three"}
    assert fragment.inputs == {"a", "c"}
    assert cut(branching, ["b", "c"], ["f"]).inputs == {"b", "c"}


def test_a_branch_is_renamed_inside(branching):
    placed = place(cut(branching, ["b", "c"], ["f"]), "x/", {"b": "outside"})
    inputs = {"outside": [1.0, -2.0]}
    always = helper.make_node("Constant", [], ["x/c"], value=numpy_helper.from_array(np.array(True)))
    never = helper.make_node("Constant", [], ["x/c"], value=numpy_helper.from_array(np.array(False)))
    assert run([always, *placed.nodes], placed.weights.values(), inputs, "x/f") == [6.0, -3.0]
    assert run([never, *placed.nodes], placed.weights.values(), inputs, "x/f") == [1.0, -2.0]
    then_branch = placed.nodes[0].attribute[0].g
    assert [node.output[0] for node in then_branch.node] == ["x/x", "x/y"]
