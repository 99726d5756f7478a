"""Int8 weights with a scale for each block of 32, multiplied by float32 activations. Knows no model.

With W (K, N) a weight, and b the blocks of 32 of its K rows, the last one filled up with zeros::

    c_bj = max_{k in b} |W_kj| / 127        w_kj = round(W_kj / c_bj)        in [-127, 127]
    y_ij = sum_b c_bj sum_{k in b} x_ik w_kj

ONNX Runtime's ``MatMulNBits`` computes that, in float32. It can round x to int8 as well (accuracy level 4), but then a
text may change with its batch. Closer to float32 than ``row_int8.py``, and slower.

Large tables of embeddings hold int8 with scales for blocks of each row (``GatherBlockQuantized``).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from st_plugins_export.extras import require
from st_plugins_export.fragments import branches, drop_unread
from st_plugins_export.products import MICROSOFT, Product, as_product, copy_for_onnx_runtime, reads_rows, weights_in

BLOCK = 32
# Float32. At level 4, int8, all-MiniLM-L6-v2 with 3 layers gave a text another vector in a batch, by 1e-4.
ACCURACY_LEVEL = 0


def to_block_int8(model: Any) -> Any:
    """A graph whose products with weights, and whose tables, read int8 blocks.

    Args:
        model: ``onnx.ModelProto`` in float32; left as it is.

    Returns:
        onnx.ModelProto: The same inputs and outputs, of the same types.
    """
    lowered = copy_for_onnx_runtime(model)
    _convert(lowered.graph, {})
    drop_unread(lowered.graph)
    return lowered


def quantized_blocks(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of 32 along the last axis of a matrix.

    Args:
        weight: (N, K).

    Returns:
        tuple: (N, B, 32) uint8, 128 stands for zero, and the scale of each block (N, B); a block of zeros has 1.

    Example:
        >>> values, scales = quantized_blocks(np.array([[1.0, -0.5, 0.0]], dtype=np.float32))
        >>> values[0, 0, :4].tolist(), (scales * 127).round(4).tolist()
        ([255, 64, 128, 128], [[1.0]])
    """
    rows, width = weight.shape
    blocks = np.pad(weight, ((0, 0), (0, -width % BLOCK))).reshape(rows, -1, BLOCK)  # (N, B, 32)
    scales = np.abs(blocks).max(axis=2) / np.float32(127)  # (N, B)
    scales = np.where(scales > 0, scales, np.float32(1)).astype(np.float32)
    return (np.rint(blocks / scales[..., None]).clip(-127, 127) + 128).astype(np.uint8), scales


def _convert(graph: Any, outer: Mapping[str, Any]) -> None:
    """Rewrite a graph in place; ``outer`` are the weights of the graphs around it."""
    weights = weights_in(graph, outer)
    nodes = []
    for node in graph.node:
        for branch in branches(node):
            _convert(branch, weights)
        product = as_product(node, weights)
        if product is not None:
            nodes += _product(graph, product)
        elif reads_rows(node, graph):
            nodes.append(_lookup(graph, node, weights[node.input[0]]))
        else:
            nodes.append(node)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)


def _product(graph: Any, product: Product) -> list[Any]:
    name, (width, columns) = product.node.output[0], product.weight.shape
    values, scales = _weights(graph, name, product.weight.T)
    options = {"K": width, "N": columns, "bits": 8, "block_size": BLOCK, "accuracy_level": ACCURACY_LEVEL}
    output = name if product.bias is None else f"{name}/product"
    nodes = [_node("MatMulNBits", [product.activation, values, scales], output, domain=MICROSOFT, **options)]
    if product.bias is not None:
        nodes.append(_node("Add", [output, product.bias], name))
    return nodes


def _lookup(graph: Any, node: Any, tensor: Any) -> Any:
    array = require("onnx", extra="onnx").numpy_helper.to_array(tensor)
    values, scales = _weights(graph, tensor.name, array, width=array.shape[1])
    options = {"gather_axis": 0, "quantize_axis": 1, "bits": 8, "block_size": BLOCK}
    return _node("GatherBlockQuantized", [values, node.input[1], scales], node.output[0], domain=MICROSOFT, **options)


def _weights(graph: Any, name: str, matrix: np.ndarray, *, width: int | None = None) -> tuple[str, str]:
    """Names of blocks and scales, in the graph that reads them, as ONNX Runtime packs weights only there.

    With a width the blocks lie in rows of it, (N, width).
    """
    from_array = require("onnx", extra="onnx").numpy_helper.from_array
    names = f"{name}/blocks", f"{name}/scales"
    if names[0] not in {tensor.name for tensor in graph.initializer}:
        values, scales = quantized_blocks(matrix)
        values = values if width is None else np.ascontiguousarray(values.reshape(len(values), -1)[:, :width])
        graph.initializer.extend(from_array(*pair) for pair in zip((values, scales), names, strict=True))
    return names


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return require("onnx", extra="onnx").helper.make_node(kind, inputs, [output], name=output, **attributes)
