"""Looks into a graph while it runs: how large each column of a value becomes. Works in the graphs inside of it too."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from st_plugins_export.extras import require
from st_plugins_export.fragments import branches

# Beyond it lie masks, which are no activations.
_MASK = 1e30


def column_maxima(
    model: Any, values: Collection[str], batches: Iterable[Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The largest absolute number in each column of some values, over batches.

    Args:
        model: ``onnx.ModelProto``; left as it is.
        values: Names of values (..., K) of float32 that operators compute, or that go in.
        batches: What the graph is run on.

    Returns:
        dict: (K,) for each value that was ever computed. Where K depends on the batch, the maximum alone: (1,).
        Masks (beyond 1e30) are left out.

    Example:
        >>> from onnx import parser
        >>> model = parser.parse_model('<ir_version: 8, opset_import: ["": 17]>'
        ...     "g (float[N, 2] x) => (float[N, 2] y) { y = Neg(x) }")
        >>> batches = [{"x": np.array([[1, -5], [2, 3]], np.float32)}]
        >>> column_maxima(model, ["y"], batches)["y"].tolist()
        [2.0, 5.0]
    """
    onnx = require("onnx", extra="onnx")
    runtime = require("onnxruntime", extra="onnx")
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watcher = _Watcher(onnx, next(entry.version for entry in model.opset_import if not entry.domain))
    seen = watcher.watch(watched.graph, frozenset(values))
    if not seen:  # asked for nothing, a session gives everything
        return {}
    for output in seen.values():
        watcher.declare(watched.graph, output)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    maxima: dict[str, np.ndarray] = {}
    for batch in batches:
        for value, found in zip(seen, session.run(list(seen.values()), dict(batch)), strict=True):
            if found.size:  # else its graph did not run
                maxima[value] = _larger(maxima.get(value), found)
    return maxima


def _larger(known: np.ndarray | None, found: np.ndarray) -> np.ndarray:
    if known is None:
        return found
    if known.shape != found.shape:
        return np.array([max(known.max(), found.max())], dtype=np.float32)
    return np.maximum(known, found)


def float_values(model: Any) -> dict[str, int | None]:
    """All float32 values of a graph and of those inside of it, weights included, and their rank where it is known."""
    onnx = require("onnx", extra="onnx")
    found: dict[str, int | None] = {}

    def collect(graph: Any) -> None:
        for value in (*graph.input, *graph.output, *graph.value_info):
            kind = value.type.tensor_type
            if kind.elem_type == onnx.TensorProto.FLOAT:
                found[value.name] = len(kind.shape.dim) if kind.HasField("shape") else None
        for tensor in graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                found[tensor.name] = len(tensor.dims)
        for node in graph.node:
            for branch in branches(node):
                collect(branch)

    collect(onnx.shape_inference.infer_shapes(model).graph)
    return found


class _Watcher:
    """Adds outputs to a graph in place."""

    def __init__(self, onnx: Any, opset: int) -> None:
        self._helper, self._onnx, self._opset = onnx.helper, onnx, opset

    def watch(self, graph: Any, values: frozenset[str]) -> dict[str, str]:
        """Names of the outputs that say how large a value was, by the name of the value."""
        seen: dict[str, str] = {}
        nodes: list[Any] = []
        here = [tensor.name for tensor in graph.input]
        for node in graph.node:
            if node.op_type == "If":
                inside = [self.watch(branch, values) for branch in branches(node)]
                for value in sorted({value for branch in inside for value in branch}):
                    seen[value] = f"{node.output[0]}/{value}/seen"
                    for branch, outputs in zip(branches(node), inside, strict=True):
                        self.declare(branch, outputs.get(value) or self._nothing(branch, seen[value]))
                    node.output.append(seen[value])
            nodes.append(node)
            here.extend(node.output)
        for value in here:
            if value in values and value not in seen:
                seen[value] = f"{value}/seen"
                nodes.extend(self._maxima(value, seen[value]))
        del graph.node[:]
        graph.node.extend(nodes)
        return seen

    def _maxima(self, value: str, output: str) -> list[Any]:
        """Operators from (..., K) to (K,)."""
        rows, sizes, limit, small, none, cut, axes = (
            f"{output}/{part}" for part in ("rows", "sizes", "limit", "small", "none", "cut", "axes")
        )
        make = self._helper.make_node
        nodes = [
            make("Flatten", [value], [rows], axis=-1),
            make("Abs", [rows], [sizes]),
            make("Constant", [], [limit], value_float=_MASK),
            make("Constant", [], [none], value_float=0.0),
            make("Less", [sizes, limit], [small]),
            make("Where", [small, sizes, none], [cut]),
        ]
        if self._opset < 18:
            return [*nodes, make("ReduceMax", [cut], [output], axes=[0], keepdims=0)]
        nodes.append(make("Constant", [], [axes], value_ints=[0]))
        return [*nodes, make("ReduceMax", [cut, axes], [output], keepdims=0)]

    def _nothing(self, graph: Any, name: str) -> str:
        """The output of a graph that does not compute the value: no number."""
        empty = self._helper.make_tensor("", self._onnx.TensorProto.FLOAT, [0], [])
        graph.node.append(self._helper.make_node("Constant", [], [f"{name}/nothing"], value=empty))
        return f"{name}/nothing"

    def declare(self, graph: Any, name: str) -> None:
        graph.output.append(self._helper.make_tensor_value_info(name, self._onnx.TensorProto.FLOAT, [None]))
