"""Packs a graph only if that changes none of its values: shown on a batch with padding, beside the graph as it was."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from st_plugins_export.extras import require
from st_plugins_export.packing import PackedGraph, pack_tokens

# Products of other shapes add up in another order. A graph that reads padding is off by far more.
_TOLERANCE = 1e-4


def pack_if_equal(
    model: Any, feeds: Mapping[str, np.ndarray], mask: str = "attention_mask", *, compared: Sequence[str] | None = None
) -> PackedGraph:
    """:func:`~st_plugins_export.packing.pack_tokens`, tried out.

    Args:
        model: ``onnx.ModelProto`` in float32; left as it is.
        feeds: Inputs (B, T) with padding.
        mask: Which of them is the mask.
        compared: Names of the outputs that must not change; None for all.

    Returns:
        PackedGraph: The given model, with a reason, if the packed one differs by more than 1e-4 of the largest value at
        a real token or in any other output. The export compares with torch besides, and more strictly.

    Example:
        >>> from onnx import parser
        >>> model = parser.parse_model('<ir_version: 8, opset_import: ["": 17]>'
        ...     "g (int64[B, T] attention_mask, float[B, T, 2] x) => (float[B, T, 1] y)"
        ...     "<float[2, 1] w = {1, 2}> { y = MatMul (x, w) }")
        >>> feeds = {"attention_mask": np.array([[1, 1], [1, 0]]), "x": np.ones((2, 2, 2), np.float32)}
        >>> pack_if_equal(model, feeds).products, pack_if_equal(model, feeds).reason
        (1, '')
    """
    packed = pack_tokens(model, mask)
    if packed.reason:
        return packed
    expected, found = _run(model, feeds), _run(packed.model, feeds)
    is_real = feeds[mask] != 0
    for name in expected if compared is None else compared:
        before, after = expected[name], found[name]
        if before.shape[:2] == is_real.shape:
            before, after = before[is_real], after[is_real]
        difference = np.abs(before - after).max(initial=0.0)
        if not difference <= _TOLERANCE * max(1.0, np.abs(before).max(initial=0.0)):
            return PackedGraph(model, 0, f"packed, {name} is {difference:.1e} off: the network reads padding")
    return packed


def check_packed(choice: bool | str) -> None:
    """Raise ValueError unless it is True, False or ``"auto"``."""
    if choice not in (True, False, "auto") or not isinstance(choice, (bool, str)):
        raise ValueError(f"packed must be True, False or 'auto', got {choice!r}.")


def _run(model: Any, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    runtime = require("onnxruntime", extra="onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in model.graph.output]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))
