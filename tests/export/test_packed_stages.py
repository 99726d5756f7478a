"""A stage gives what it gave at real tokens, and computes no others."""

import numpy as np
import onnx
import onnxruntime

from st_plugins_export.exit_pieces import trace_stages
from st_plugins_export.fragments import Fragment
from st_plugins_export.graph import OPSET, plain_copy
from st_plugins_export.packed_stages import PackedStage, pack_stage, padded_because

WIDTH = 32


def run(stage, feeds):
    make, types = onnx.helper.make_tensor_value_info, onnx.TensorProto
    inputs = [make(n, types.FLOAT if n == "hidden" else types.INT64, None) for n in sorted(stage.inputs)]
    graph = onnx.helper.make_graph(
        stage.nodes, "g", inputs, [make("states", types.FLOAT, None)], list(stage.weights.values())
    )
    model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {name: feeds[name] for name in stage.inputs})[0]


def test_both_stages_keep_real_tokens_and_names(plain):
    stages = trace_stages(plain_copy(plain), (1, 3))
    mask = np.array([[1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0]])
    hidden = np.random.default_rng(1).normal(size=(4, 4, WIDTH)).astype(np.float32)
    feeds = {"input_ids": mask * 7, "token_type_ids": mask, "attention_mask": mask, "hidden": hidden}
    for stage in stages:
        result = pack_stage(stage, WIDTH, OPSET)
        packed = result.fragment
        assert result.padded_because == ""
        # The second stage may have asked ids for no more than their shape.
        assert packed.inputs | {"input_ids"} == stage.inputs | {"attention_mask", "input_ids"}
        assert packed.weights.keys() == stage.weights.keys()
        assert "GatherND" in {node.op_type for node in packed.nodes}
        found, is_real = run(packed, feeds), mask.astype(bool)
        np.testing.assert_allclose(found[is_real], run(stage, feeds)[is_real], atol=1e-6)
        assert not found[~is_real].any()


def test_a_stage_that_treats_no_tokens_one_by_one_says_so():
    stage = Fragment((onnx.helper.make_node("Neg", ["hidden"], ["states"]),), {})
    result = pack_stage(stage, WIDTH, OPSET)
    assert [node.op_type for node in result.fragment.nodes] == ["Neg"]
    assert result.padded_because == "no product with weights is computed token by token"


def test_reasons_name_the_exit_they_lie_before():
    packed, padded = (PackedStage(Fragment((), {}), reason) for reason in ("", "it reads padding"))
    assert padded_because([packed, packed], (1, 3)) == ""
    assert padded_because([padded, packed, padded], (1, 2, 3)) == (
        "before the exit at layer 1, it reads padding; before the exit at layer 3, it reads padding"
    )
