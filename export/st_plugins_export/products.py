"""Products with weights, and lookups in large tables, in an ONNX graph and those inside of it. Knows no model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from st_plugins_export.extras import require
from st_plugins_export.fragments import branches

# The domain of ONNX Runtime's own operators.
MICROSOFT = "com.microsoft"
# Smaller tables save nothing.
_FEWEST_ROWS = 1000


@dataclass(frozen=True)
class Product:
    """``y = x W``, or ``y = x W + b``.

    Args:
        node: ``onnx.NodeProto``, a MatMul or a Gemm.
        weight: W (K, N) float32.
        bias: Name of b, or None.
    """

    node: Any
    weight: np.ndarray
    bias: str | None

    @property
    def activation(self) -> str:
        """Name of x (..., K)."""
        return self.node.input[0]


def find_products(graph: Any, outer: Mapping[str, Any] | None = None) -> Iterator[Product]:
    """All products of an activation and a constant matrix, in the order they run.

    Args:
        graph: ``onnx.GraphProto``.
        outer: Weights of the graphs around it, by name.

    Yields:
        Product: The weight as MatMul would read it, whether or not a Gemm has it transposed. A Gemm that transposes its
        activation, or scales, is none.
    """
    weights = weights_in(graph, outer)
    for node in graph.node:
        for branch in branches(node):
            yield from find_products(branch, weights)
        product = as_product(node, weights)
        if product is not None:
            yield product


def weights_in(graph: Any, outer: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """``onnx.TensorProto`` by name, of a graph and of those around it."""
    return {**(outer or {}), **{tensor.name: tensor for tensor in graph.initializer}}


def as_product(node: Any, weights: Mapping[str, Any]) -> Product | None:
    """What an operator multiplies by which of the weights; None if it is no such product."""
    onnx = require("onnx", extra="onnx")
    if node.op_type not in ("MatMul", "Gemm") or node.domain or node.input[1] not in weights:
        return None
    tensor = weights[node.input[1]]
    options = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    is_scaled = options.get("alpha", 1) != 1 or options.get("beta", 1) != 1 or options.get("transA", 0)
    if node.input[0] in weights or len(tensor.dims) != 2 or tensor.data_type != onnx.TensorProto.FLOAT or is_scaled:
        return None
    weight = onnx.numpy_helper.to_array(tensor)  # (K, N) or (N, K)
    bias = node.input[2] if len(node.input) > 2 else ""
    return Product(node, weight.T if options.get("transB", 0) else weight, bias or None)


def reads_rows(node: Any, graph: Any) -> bool:
    """Whether an operator looks up rows of a large float32 table (V, D) that the same graph holds."""
    onnx = require("onnx", extra="onnx")
    if node.op_type != "Gather" or any(attribute.i for attribute in node.attribute):  # another axis
        return False
    return any(
        tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2 and tensor.dims[0] >= _FEWEST_ROWS
        for tensor in graph.initializer
        if tensor.name == node.input[0]
    )


def copy_for_onnx_runtime(model: Any) -> Any:
    """A copy of an ``onnx.ModelProto`` that may use ONNX Runtime's own operators."""
    onnx = require("onnx", extra="onnx")
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    if not any(entry.domain == MICROSOFT for entry in copied.opset_import):
        copied.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))
    return copied
