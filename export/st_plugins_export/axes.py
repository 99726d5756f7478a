"""Which axes of the values in a graph are batch and sequence. Found by running the graph, not by reading it.

Traced graphs compute their shapes with operators of their own, which no shape inference follows in every family. Run
at a few sizes, each axis shows what it is.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from st_plugins_export.extras import require

BATCH, SEQUENCE = "batch", "sequence"
Axes = Mapping[str, tuple[int | str | None, ...]]
# Texts and tokens. The mask that goes with them is not all ones: nothing fits by accident.
_SIZES = ((2, 3), (3, 5), (4, 7))


def find_axes(model: Any, mask: str) -> Axes:
    """The axes of every value outside of branches.

    Args:
        model: ``onnx.ModelProto`` under 2 GiB that takes 7 tokens. Axes of its inputs are numbers or those of the mask.
        mask: The input (B, T) with ones at real tokens.

    Returns:
        Axes: By the name of each input, weight and value: a number, ``"batch"``, ``"sequence"``, or None for an axis
        that is something else. Values whose rank varies are missing.

    Example:
        >>> from onnx import parser
        >>> model = parser.parse_model('<ir_version: 8, opset_import: ["": 17]>'
        ...     "g (int64[B, T] mask, float[B, T, 4] x) => (float[B, 4, T] y) { y = Transpose <perm=[0, 2, 1]> (x) }")
        >>> find_axes(model, "mask")["y"]
        ('batch', 4, 'sequence')
    """
    onnx, runtime = require("onnx", extra="onnx"), require("onnxruntime", extra="onnx")
    values = [name for node in model.graph.node for name in node.output if name]
    observed = type(model)()
    observed.CopyFrom(model)
    del observed.graph.output[:]
    observed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(observed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    shapes: dict[str, list[tuple[int, ...]]] = {name: [] for name in values}
    for batch, sequence in _SIZES:
        feeds = _feeds(model, mask, batch, sequence)
        for name, found in [*feeds.items(), *zip(values, session.run(None, feeds), strict=True)]:
            shapes.setdefault(name, []).append(np.shape(found))
    axes = {name: _labels(seen) for name, seen in shapes.items() if len(set(map(len, seen))) == 1}
    return {**axes, **{weight.name: tuple(weight.dims) for weight in model.graph.initializer}}


def _feeds(model: Any, mask: str, batch: int, sequence: int) -> dict[str, Any]:
    """Zeros for every input, which are valid token ids; a mask with one token left out."""
    helper = require("onnx", extra="onnx").helper
    declared = {tensor.name: tensor.type.tensor_type for tensor in model.graph.input}
    sizes = dict(zip((dim.dim_param for dim in declared[mask].shape.dim), (batch, sequence), strict=True))
    feeds = {
        name: np.zeros(
            [sizes[dim.dim_param] if dim.dim_param else dim.dim_value for dim in kind.shape.dim],
            helper.tensor_dtype_to_np_dtype(kind.elem_type),
        )
        for name, kind in declared.items()
    }
    feeds[mask] += 1
    feeds[mask][0, -1] = 0
    return feeds


def _labels(seen: list[tuple[int, ...]]) -> tuple[int | str | None, ...]:
    batches, sequences = zip(*_SIZES, strict=True)
    names = {batches: BATCH, sequences: SEQUENCE}
    return tuple(numbers[0] if len(set(numbers)) == 1 else names.get(numbers) for numbers in zip(*seen, strict=True))
