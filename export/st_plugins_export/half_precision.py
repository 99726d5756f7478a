"""Float16 inside a float32 graph: half the bytes, float32 in and out. Knows no model; a pass over any ONNX graph.

Float16 starts where weights enter (tables of embeddings, products with weights) and is carried on by what follows.
What float16 is bad at stays float32: squares, sums and means (of norms and poolings), what is divided by them,
positions and angles, constants below its range. Masks, whose -3.4e38 lies beyond its range, are cut to -30000 first.
"""

from collections.abc import Collection
from typing import Any

import numpy as np

from st_plugins_export.extras import require
from st_plugins_export.fragments import branches, drop_unread
from st_plugins_export.observing import float_values

# Carry float16 on, and lose little by it.
_MATHS = frozenset(
    {"Add", "Sub", "Mul", "Div", "Neg", "Where", "MatMul", "Gemm", "Einsum", "Softmax", "LayerNormalization"}
    | {"Relu", "Erf", "Gelu", "Tanh", "Sigmoid"}
)
# Move numbers and change none.
_MOVES = frozenset(
    {"Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad", "Reshape"}
    | {"ScatterElements", "ScatterND", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
_LARGEST, _SMALLEST = 65504.0, 2.0**-24
# As good as minus infinity behind a softmax, and two of them still have a sum in float16.
_MASKED = 30000.0


def to_half(model: Any, *, kept: Collection[str] = ()) -> Any:
    """A graph that computes in float16 what it can.

    Args:
        model: ``onnx.ModelProto`` in float32; left as it is.
        kept: First outputs of operators that stay float32.

    Returns:
        onnx.ModelProto: The same inputs and outputs, of the same types.

    Example:
        >>> from onnx import parser
        >>> model = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[N, 1] y)'
        ...     "<float[2, 1] w = {0.5, 0.25}> { y = MatMul(x, w) }")
        >>> [node.op_type for node in to_half(model).graph.node]
        ['Cast', 'MatMul', 'Cast']
    """
    onnx = require("onnx", extra="onnx")
    halved = onnx.ModelProto()
    halved.CopyFrom(model)
    _Half(halved.graph, frozenset(float_values(model)), frozenset(kept), None).convert()
    return halved


class _Half:
    """Converts one graph in place, and those inside of it."""

    def __init__(self, graph: Any, floats: frozenset[str], kept: frozenset[str], outer: "_Half | None") -> None:
        self._onnx: Any = require("onnx", extra="onnx")
        self._graph, self._floats, self._kept, self._outer = graph, floats, kept, outer
        self._counter: list[int] = [0] if outer is None else outer._counter
        # What was computed in float32; and by such a name, what was cast from float16 in this graph, and its float16.
        self._native = {tensor.name: tensor.name for tensor in graph.input}
        self._fulls: dict[str, str] = {}
        self._halves: dict[str, str] = {}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constants[node.output[0]] = node.attribute[0].t
        self._wide: set[str] = set()
        self._nodes: list[Any] = []

    def convert(self) -> None:
        for node in self._graph.node:
            self._convert_node(node)
        for output in self._graph.output:
            self._as_full(output.name)
        del self._graph.node[:], self._graph.value_info[:]
        self._graph.node.extend(self._nodes)
        if self._outer is None:
            drop_unread(self._graph)

    def _convert_node(self, node: Any) -> None:
        inner = branches(node)
        for branch in inner:
            _Half(branch, self._floats, self._kept, self).convert()
        if inner or not self._becomes_half(node):
            node.input[:] = [self._as_full(name) for name in node.input]
            self._native.update((name, name) for name in node.output)
            self._spread_width(node)
        else:
            node.input[:] = [self._as_half(name) if name in self._floats else name for name in node.input]
            for position, name in enumerate(node.output):
                if name in self._floats:
                    node.output[position] = self._halves[name] = f"{name}/half"
                else:
                    self._native[name] = name
        self._nodes.append(node)

    def _becomes_half(self, node: Any) -> bool:
        if node.op_type not in _MATHS | _MOVES or node.output[0] not in self._floats or node.output[0] in self._kept:
            return False
        floats = [name for name in node.input if name in self._floats]
        constants = [name for name in floats if self._find("_constants", name) is not None]
        if not all(_fits(self._onnx.numpy_helper.to_array(self._find("_constants", name))) for name in constants):
            return False
        if node.op_type == "Div" and any(self._find("_native", name) is not None for name in floats):
            return False  # by a norm, or a number of tokens
        if any(self._find("_halves", name) is not None for name in floats if name not in constants):
            return True
        has_weight = any(len(self._find("_constants", name).dims) >= 2 for name in constants)
        return has_weight and node.op_type in ("MatMul", "Gemm", "Gather")

    def _spread_width(self, node: Any) -> None:
        """Remember what may lie beyond float16 because a constant does."""
        if node.op_type not in _MATHS | _MOVES | {"Constant", "ConstantOfShape"} or node.op_type == "Softmax":
            return
        constant = self._constants.get(node.output[0])
        is_large = constant is not None and node.output[0] in self._floats and self._is_large(constant)
        large_inputs = [name for name in node.input if name in self._floats and self._is_wide(name)]
        if is_large or large_inputs:
            self._wide.update(node.output)

    def _is_wide(self, name: str) -> bool:
        constant = self._find("_constants", name)
        in_wide = name in self._wide or (self._outer is not None and self._outer._is_wide(name))
        return in_wide or (constant is not None and self._is_large(constant))

    def _is_large(self, tensor: Any) -> bool:
        values = self._onnx.numpy_helper.to_array(tensor)
        return bool((np.abs(values) > _LARGEST).any())

    def _as_half(self, name: str) -> str:
        found = self._find("_halves", name)
        if found is not None:
            return found
        if self._find("_constants", name) is not None:
            return self._half_constant(name)
        source = self._as_full(name)
        if self._is_wide(name):
            cut = self._fresh(name)
            self._nodes.append(self._onnx.helper.make_node("Clip", [source, *self._limits()], [cut], name=cut))
            source = cut
        self._halves[name] = self._fresh(name)
        self._cast(source, self._halves[name], self._onnx.TensorProto.FLOAT16)
        return self._halves[name]

    def _as_full(self, name: str) -> str:
        half = self._find("_halves", name)
        if half is None or any(self._find(table, name) is not None for table in ("_native", "_constants")):
            return name
        if name not in self._fulls:
            # Under its own name only in the graph that computes it. A graph inside casts for itself: ONNX Runtime
            # cannot move casts across its border, and says so each time.
            self._fulls[name] = name if name in self._halves else self._fresh(name)
            self._cast(half, self._fulls[name], self._onnx.TensorProto.FLOAT)
        return self._fulls[name]

    def _half_constant(self, name: str) -> str:
        """Beside the constant, in the graph that holds it: ONNX Runtime packs weights only there."""
        if name not in self._constants:
            assert self._outer is not None
            return self._outer._half_constant(name)
        if name not in self._halves:
            array = self._onnx.numpy_helper.to_array(self._constants[name]).astype(np.float16)
            self._halves[name] = f"{name}/half"
            self._graph.initializer.append(self._onnx.numpy_helper.from_array(array, self._halves[name]))
        return self._halves[name]

    def _limits(self) -> list[str]:
        """Names of the numbers to cut masks to."""
        if self._outer is not None:
            return self._outer._limits()
        limits = {"half/lowest": -_MASKED, "half/highest": _MASKED}
        present = {tensor.name for tensor in self._graph.initializer}
        for name, value in limits.items():
            if name not in present:
                array = np.array(value, dtype=np.float32)
                self._graph.initializer.append(self._onnx.numpy_helper.from_array(array, name))
        return list(limits)

    def _cast(self, source: str, target: str, kind: int) -> None:
        self._nodes.append(self._onnx.helper.make_node("Cast", [source], [target], name=f"{target}/cast", to=kind))

    def _fresh(self, name: str) -> str:
        self._counter[0] += 1
        return f"{name}/as_{self._counter[0]}"

    def _find(self, table: str, name: str) -> Any:
        """What this graph, or one around it, has for a name."""
        found = getattr(self, table).get(name)
        return self._outer._find(table, name) if found is None and self._outer is not None else found


def _fits(values: np.ndarray) -> bool:
    """Whether float16 can hold a constant; a single number must not become zero either."""
    largest = np.abs(values).max(initial=0.0)
    return bool(largest <= _LARGEST and not (values.size == 1 and 0 < largest < _SMALLEST))
