"""Stages of a graph with exits that compute real tokens only: rows in, rows out, packed between attentions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from st_plugins_export.extras import require
from st_plugins_export.fragments import Fragment, cut
from st_plugins_export.safe_packing import pack_if_equal

_MASK = "attention_mask"


@dataclass(frozen=True)
class PackedStage:
    """What :func:`pack_stage` made of a stage.

    Args:
        fragment: The stage.
        padded_because: Why it computes padding as well as tokens; empty if it does not.
    """

    fragment: Fragment
    padded_because: str


def pack_stage(stage: Fragment, width: int, opset: int) -> PackedStage:
    """A stage that gives what it gave, with zeros at padding.

    Args:
        stage: Reads ``hidden`` (B, T, D) and inputs of the model (B, T); computes ``states``, perhaps ``raw`` as well.
        width: D.
        opset: Of its operators.

    Returns:
        PackedStage: The given one, with a reason, if it treats no tokens one by one, or reads padding.
    """
    onnx: Any = require("onnx", extra="onnx")
    make, types = onnx.helper.make_tensor_value_info, onnx.TensorProto
    inputs = [
        make(name, types.FLOAT, ["batch", "sequence", width])
        if name == "hidden"
        else make(name, types.INT64, ["batch", "sequence"])
        for name in sorted(stage.inputs | {_MASK})
    ]
    targets = sorted({"states", "raw"} & stage.outputs)
    outputs = [make(name, types.FLOAT, ["batch", "sequence", width]) for name in targets]
    graph = onnx.helper.make_graph(stage.nodes, "stage", inputs, outputs, list(stage.weights.values()))
    opsets = [onnx.helper.make_opsetid("", opset)]
    version = onnx.helper.find_min_ir_version_for(opsets)
    model = onnx.helper.make_model(graph, ir_version=version, opset_imports=opsets)
    packed = pack_if_equal(model, _trial(stage, width))
    return PackedStage(cut(packed.model, (), targets), packed.reason)


def padded_because(stages: Sequence[PackedStage], layers: Sequence[int]) -> str:
    """Why a graph computes padding as well as tokens, and before which exits; empty if it does not.

    Args:
        stages: In the order they run.
        layers: The exit at the end of each.

    Example:
        >>> nothing = Fragment((), {})
        >>> padded_because([PackedStage(nothing, ""), PackedStage(nothing, "it reads padding")], (2, 4))
        'before the exit at layer 4, it reads padding'
    """
    reasons = [
        f"before the exit at layer {layer}, {stage.padded_because}"
        for stage, layer in zip(stages, layers, strict=True)
        if stage.padded_because
    ]
    return "; ".join(reasons)


def _trial(stage: Fragment, width: int) -> dict[str, np.ndarray]:
    """Two rows, one of them padded, with any numbers for hidden states."""
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    feeds = {name: np.zeros_like(mask) for name in stage.inputs}
    if "hidden" in feeds:
        feeds["hidden"] = np.random.default_rng(0).normal(size=(*mask.shape, width)).astype(np.float32)
    return {**feeds, _MASK: mask}
