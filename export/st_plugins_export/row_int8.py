"""Int8 products whose activations have a scale for each token, so that no text depends on its batch. Knows no model.

With x (R, K) the activations, W (K, N) the weights, both in float32, and o a smoothing of the columns (K,)::

    x' = x / o          W' = o W
    r_i = max_k |x'_ik| / 127        q_ik = round(x'_ik / r_i)          in [-127, 127]
    c_j = max_k |W'_kj| / 127        w_kj = round(W'_kj / c_j)          in [-127, 127]
    y_ij = r_i c_j sum_k q_ik w_kj

The sum is exact, where EXACT_SUMS of sessions.py is set. ONNX Runtime's own dynamic quantization has one r for the
whole batch instead: there, a text changes with its neighbors and with padding.

Large tables of embeddings become int8 with a scale for each row.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from st_plugins_export.extras import require
from st_plugins_export.fragments import branches, drop_unread
from st_plugins_export.observing import float_values
from st_plugins_export.products import MICROSOFT, Product, as_product, copy_for_onnx_runtime, reads_rows, weights_in

# A row of zeros needs a scale too.
_SMALLEST_SCALE = 1e-30


def to_row_int8(model: Any, smoothing: Mapping[str, np.ndarray] | None = None) -> Any:
    """A graph whose products with weights run in int8.

    Args:
        model: ``onnx.ModelProto`` in float32; left as it is.
        smoothing: o (K,) by the name of the activation it divides; none for those that are missing.

    Returns:
        onnx.ModelProto: The same inputs and outputs, of the same types.
    """
    onnx = require("onnx", extra="onnx")
    lowered = copy_for_onnx_runtime(model)
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    _RowInt8(onnx, lowered.graph, opset, float_values(model), smoothing or {}).convert()
    return lowered


def quantized_columns(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A matrix (K, N) as int8 (K, N) and the scale of each column (N,); a column of zeros has 1.

    Example:
        >>> values, scales = quantized_columns(np.array([[1.0, 0.0], [-0.5, 0.0]], dtype=np.float32))
        >>> values.tolist(), (scales * 127).round(4).tolist()
        ([[127, 0], [-64, 0]], [1.0, 127.0])
    """
    scales = np.abs(weight).max(axis=0) / np.float32(127)  # (N,)
    scales = np.where(scales > 0, scales, np.float32(1)).astype(np.float32)
    return np.rint(weight / scales).clip(-127, 127).astype(np.int8), scales


class _RowInt8:
    """Rewrites a graph in place."""

    def __init__(
        self, onnx: Any, graph: Any, opset: int, floats: Mapping[str, int | None], smoothing: Mapping[str, np.ndarray]
    ) -> None:
        self._onnx, self._graph, self._opset, self._floats, self._smoothing = onnx, graph, opset, floats, smoothing
        self._constants: set[str] = set()

    def convert(self) -> None:
        self._constant("int8/zero", np.array(128, np.uint8))
        self._constant("int8/one", np.array(1, np.float32))
        self._constant("int8/step", np.array(1 / 127, np.float32))
        self._constant("int8/smallest", np.array(_SMALLEST_SCALE, np.float32))
        self._convert(self._graph, {}, {})
        drop_unread(self._graph)

    def _convert(self, graph: Any, outer: Mapping[str, Any], quantized: Mapping[str, tuple[str, str]]) -> None:
        """``outer``: weights of the graphs around. ``quantized``: rows and scales of activations there, by name."""
        weights, done = weights_in(graph, outer), dict(quantized)
        nodes = []
        for node in graph.node:
            for branch in branches(node):
                self._convert(branch, weights, done)
            product = as_product(node, weights)
            if product is not None:
                nodes += self._product(graph, product, done)
            elif reads_rows(node, graph):
                nodes += self._gather(graph, node, weights[node.input[0]])
            else:
                nodes.append(node)
        del graph.node[:], graph.value_info[:]
        graph.node.extend(nodes)

    def _product(self, graph: Any, product: Product, done: dict[str, tuple[str, str]]) -> list[Any]:
        """Operators in place of a product; its activation is quantized once for all its readers."""
        name = product.node.output[0]
        smoothing = self._smoothing.get(product.activation)
        nodes = []
        if product.activation not in done:
            done[product.activation] = (f"{name}/rows", f"{name}/row_scales")
            nodes += self._quantized(graph, product, smoothing, *done[product.activation])
        rows, row_scales = done[product.activation]
        weight = product.weight if smoothing is None else product.weight * smoothing[:, None]
        values, scales = quantized_columns(weight)  # (K, N) int8, (N,)
        self._weight(graph, f"{name}/int8", values)
        self._weight(graph, f"{name}/scales", scales)
        inputs = [rows, f"{name}/int8", "int8/one", f"{name}/scales", "int8/zero"]
        is_flat = self._floats.get(product.activation) == 2
        last = name if is_flat and product.bias is None else f"{name}/scaled"
        nodes += [
            self._node("MatMulIntegerToFloat", inputs, f"{name}/sums", domain=MICROSOFT),
            self._node("Mul", [f"{name}/sums", row_scales], last),
        ]
        if not is_flat:
            nodes += self._in_shape_of(
                product.activation, last, f"{name}/shaped" if product.bias else name, len(scales)
            )
            last = f"{name}/shaped"
        if product.bias is not None:
            nodes.append(self._node("Add", [last, product.bias], name))
        return nodes

    def _quantized(self, graph: Any, product: Product, smoothing: Any, rows: str, row_scales: str) -> list[Any]:
        """From x (..., K) to rows (R, K) uint8 around 128, and their scales (R, 1)."""
        activation, width = product.activation, len(product.weight)
        nodes, flat = [], activation
        if smoothing is not None:
            self._weight(graph, f"{rows}/smoothing", (1 / smoothing).astype(np.float32))
            nodes.append(self._node("Mul", [activation, f"{rows}/smoothing"], f"{rows}/smooth"))
            flat = f"{rows}/smooth"
        if self._floats.get(activation) != 2:
            self._constant(f"int8/rows_of_{width}", np.array([-1, width], np.int64))
            nodes.append(self._node("Reshape", [flat, f"int8/rows_of_{width}"], f"{rows}/flat"))
            flat = f"{rows}/flat"
        largest, steps, scales, shape, zeros = (
            f"{rows}/{part}" for part in ("largest", "steps", "scales", "shape", "zeros")
        )
        self._constant("int8/second_axis", np.array([1], np.int64))
        return [
            *nodes,
            self._node("Abs", [flat], f"{rows}/sizes"),
            self._row_maxima(f"{rows}/sizes", largest),
            self._node("Mul", [largest, "int8/step"], steps),
            self._node("Max", [steps, "int8/smallest"], scales),
            self._node("Shape", [scales], shape),
            self._node("Expand", ["int8/zero", shape], zeros),
            self._node("QuantizeLinear", [flat, scales, zeros], rows, axis=0),
            self._node("Unsqueeze", [scales, "int8/second_axis"], row_scales),
        ]

    def _row_maxima(self, sizes: str, largest: str) -> Any:
        if self._opset < 18:
            return self._node("ReduceMax", [sizes], largest, axes=[1], keepdims=0)
        return self._node("ReduceMax", [sizes, "int8/second_axis"], largest, keepdims=0)

    def _in_shape_of(self, activation: str, rows: str, output: str, width: int) -> list[Any]:
        """Rows (R, N) to (..., N)."""
        self._constant(f"int8/width_{width}", np.array([width], np.int64))
        leading, shape = f"{output}/leading", f"{output}/shape"
        return [
            self._node("Shape", [activation], leading, end=-1),
            self._node("Concat", [leading, f"int8/width_{width}"], shape, axis=0),
            self._node("Reshape", [rows, shape], output),
        ]

    def _gather(self, graph: Any, node: Any, tensor: Any) -> list[Any]:
        """Rows of a table, of int8."""
        name = node.output[0]
        values, scales = quantized_columns(self._onnx.numpy_helper.to_array(tensor).T)
        self._weight(graph, f"{tensor.name}/int8", np.ascontiguousarray(values.T))
        self._weight(graph, f"{tensor.name}/scales", scales[:, None])
        return [
            self._node("Gather", [f"{tensor.name}/int8", node.input[1]], f"{name}/rows"),
            self._node("Gather", [f"{tensor.name}/scales", node.input[1]], f"{name}/row_scales"),
            self._node("Cast", [f"{name}/rows"], f"{name}/steps", to=self._onnx.TensorProto.FLOAT),
            self._node("Mul", [f"{name}/steps", f"{name}/row_scales"], name),
        ]

    def _weight(self, graph: Any, name: str, array: np.ndarray) -> None:
        """In the graph that reads it, as ONNX Runtime packs weights only there; once if a table is read twice."""
        if name not in {tensor.name for tensor in graph.initializer}:
            graph.initializer.append(self._onnx.numpy_helper.from_array(array, name))

    def _constant(self, name: str, array: np.ndarray) -> None:
        if name not in self._constants:
            self._constants.add(name)
            self._graph.initializer.append(self._onnx.numpy_helper.from_array(array, name))

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return self._onnx.helper.make_node(kind, inputs, [output], name=output, **attributes)
