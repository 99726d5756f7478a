"""Graphs with exits against torch: a text may leave elsewhere only where rounding decides."""

import copy
import hashlib
import json

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from st_plugins.errors import ExitError, ParityError
from st_plugins.exits import ExitPolicy
from st_plugins.exits.traces import trace
from st_plugins_export import check_parity

NAME = "onnx/model_exit_saturation.onnx"


def set_threshold(folder, threshold):
    """Edit the threshold inside the graph, and accept the file as the exported one."""
    model = onnx.load(folder / NAME)
    weight = next(weight for weight in model.graph.initializer if weight.name == "threshold_of_layer_2")
    weight.CopyFrom(numpy_helper.from_array(np.array(threshold, np.float32), weight.name))
    onnx.save(model, folder / NAME)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"][NAME] = hashlib.sha256((folder / NAME).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def with_threshold(leaving, folder, threshold):
    """The model with another threshold, and a manifest that knows it."""
    model = copy.deepcopy(leaving)
    policy = model[0].exit_policies["saturation"]
    model[0].add_exit_policy(ExitPolicy(policy.name, policy.criterion, threshold, policy.layers))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["exits"][1]["policy"] = model[0].exit_policies["saturation"].as_dict()
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return model


def test_an_export_agrees_with_its_model_at_every_exit(leaving, exported_exits):
    report = check_parity(leaving, exported_exits)
    assert [(found.name, found.layers, found.dim) for found in report.exits] == [
        ("gate", (1, 2, 3), 32),
        ("saturation", (1, 2, 3), 32),
        (None, (1, 2, 3), 32),
    ]
    assert all(0 < found.max_difference <= 1e-5 and found.borderline == 0 for found in report.exits)
    assert check_parity(leaving, exported_exits, ["the cats"] * 33 + ["sleep"]).max_difference <= 1e-5


def test_a_text_at_the_threshold_may_leave_elsewhere_and_is_counted(leaving, damaged_exits):
    score = float(trace(leaving, ["the weather"]).scores(leaving[0].exit_policies["saturation"].criterion)[1, 0])
    model = with_threshold(leaving, damaged_exits, score - 4e-6)  # torch lets it leave
    set_threshold(damaged_exits, score + 4e-6)  # the graph does not
    report = check_parity(model, damaged_exits, ["the weather", "a", "the weather"])
    assert [found.borderline for found in report.exits] == [0, 2, 0]
    assert report.max_difference <= 1e-5


def test_a_text_that_leaves_elsewhere_for_no_reason_is_found(leaving, damaged_exits):
    score = float(trace(leaving, ["the weather"]).scores(leaving[0].exit_policies["saturation"].criterion)[1, 0])
    model = with_threshold(leaving, damaged_exits, score - 4e-5)
    set_threshold(damaged_exits, score + 4e-5)
    message = r"model_exit_saturation\.onnx a text must leave .* in torch, 2, and leaves at 3: 'the weather'"
    with pytest.raises(ParityError, match=message):
        check_parity(model, damaged_exits, ["a", "the weather"])


def test_another_policy_of_that_name_is_found(leaving, exported_exits):
    model = copy.deepcopy(leaving)
    policy = model[0].exit_policies["gate"]
    model[0].add_exit_policy(ExitPolicy("gate", policy.criterion, 0.5, policy.layers))
    with pytest.raises(ParityError, match=r"policy 'gate' of the model must be the one in onnx/model_exit_gate\.onnx"):
        check_parity(model, exported_exits)
    del model[0].exit_policies["gate"]
    with pytest.raises(ExitError, match=r"name of a policy of this model, \['saturation'\], got 'gate'"):
        check_parity(model, exported_exits)


def test_other_vectors_are_found(leaving, damaged_exits):
    model = onnx.load(damaged_exits / NAME)
    model.graph.node[-1].output[0] = "exit_layer_unused"
    model.graph.node.append(onnx.helper.make_node("Identity", ["exit_layer_unused"], ["exit_layer"]))
    pooled = next(node for node in model.graph.node if "sentence_embedding" in node.output)
    pooled.output[0] = "unscaled"
    model.graph.initializer.append(numpy_helper.from_array(np.array(1.001, np.float32), "scale"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["unscaled", "scale"], ["sentence_embedding"]))
    onnx.save(model, damaged_exits / NAME)
    set_threshold(damaged_exits, 0.882)
    with pytest.raises(ParityError, match=r"saturation\.onnx must give .* to within 1e-05, and is .* batch of 1 .*'a'"):
        check_parity(leaving, damaged_exits)
    assert check_parity(leaving, damaged_exits, tolerance=0.01).exits[1].max_difference > 1e-5


def test_other_weights_are_found_at_the_layers_too(leaving, exported_exits):
    other = copy.deepcopy(leaving)
    with torch.no_grad():
        other[0].auto_model.encoder.layer[1].output.dense.bias[0] += 0.01
    with pytest.raises(ParityError, match=r"model\.onnx must give"):
        check_parity(other, exported_exits)
