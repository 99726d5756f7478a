"""Operators that treat every token by itself, and the same operators on packed tokens: (N, ...) for (B, T, ...)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from st_plugins_export.axes import BATCH, SEQUENCE, Axes
from st_plugins_export.extras import require

_ELEMENTWISE = frozenset(
    "Abs Add And BitShift Cast Ceil Celu Clip Cos Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid "
    "HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Min Mish Mod Mul Neg Not Or PRelu Pow "
    "Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus Softsign Sqrt Sub Sum Swish Tan Tanh Where Xor".split()
)
_REDUCING = frozenset(
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare".split()
)
_NORMALIZING = frozenset(("LayerNormalization", "RMSNormalization", "Softmax", "LogSoftmax"))
# What the leading axes of an operand can be that broadcasting stretches over all tokens.
_BROADCAST = frozenset([(), (1,), (SEQUENCE,), (1, 1), (1, SEQUENCE), (BATCH, 1), (BATCH, SEQUENCE)])


@dataclass(frozen=True)
class PackedForm:
    """How an operator runs on packed tokens.

    Args:
        operands: Which inputs hold tokens: position, and how many of their leading axes are those of the tokens.
        attributes: Attributes that change.
        constants: Inputs that become these integers, by position.
    """

    operands: Mapping[int, int]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[int, list[int]] = field(default_factory=dict)


def has_tokens(axes: Sequence[int | str | None]) -> bool:
    """Whether the leading axes are batch and sequence."""
    return tuple(axes[:2]) == (BATCH, SEQUENCE)


def packed_form(node: Any, axes: Axes, integers: Mapping[str, list[int]]) -> PackedForm | None:
    """What an operator becomes on packed tokens.

    Args:
        node: ``onnx.NodeProto``.
        axes: From :func:`~st_plugins_export.axes.find_axes`.
        integers: The constant integer vectors of the graph, by name.

    Returns:
        PackedForm: Or None if a token of its output needs more than the same token of its inputs.
    """
    known = all(name in axes for name in [*node.input, *node.output] if name)
    if node.domain or not known or not all(has_tokens(axes[name]) for name in node.output):
        return None
    if node.op_type in _ELEMENTWISE:
        return _elementwise(node, axes)
    if node.op_type in _NORMALIZING:
        return _along_axis(node, axes, default=-1)
    if node.op_type in _REDUCING:
        return _along_axes(node, axes, _given_axes(node, integers, place=1))
    form = _FORMS.get(node.op_type)
    return form(node, axes, integers) if form else None


def is_product_with_weights(node: Any) -> bool:
    """Whether an operator that has a packed form is the kind of work that packing saves."""
    return node.op_type == "MatMul"


def is_lookup(node: Any, form: PackedForm) -> bool:
    """Whether an operator reads rows of a table, one per token: there tokens begin to be vectors."""
    return node.op_type == "Gather" and 1 in form.operands


def _elementwise(node: Any, axes: Axes) -> PackedForm | None:
    behind = len(axes[node.output[0]]) - 2
    operands = {}
    for place, name in enumerate(node.input):
        count = len(axes[name]) - behind if name else 0
        if tuple(axes[name][: max(count, 0)] if name else ()) not in _BROADCAST:
            return None
        if count > 0:
            operands[place] = count
    return PackedForm(operands)


def _matmul(node: Any, axes: Axes, _: Mapping[str, list[int]]) -> PackedForm | None:
    tokens, weights = (axes[name] for name in node.input)
    return PackedForm({0: 2}) if has_tokens(tokens) and len(weights) == 2 and _are_numbers(weights) else None


def _gather(node: Any, axes: Axes, _: Mapping[str, list[int]]) -> PackedForm | None:
    data, indices = (axes[name] for name in node.input)
    axis = _attribute(node, "axis", 0)
    if axis == 0 and has_tokens(indices) and _are_numbers(data):
        return PackedForm({1: 2})
    return _along_axis(node, axes, default=0) if _are_numbers(indices) else None


def _reshape(node: Any, axes: Axes, _: Mapping[str, list[int]]) -> PackedForm | None:
    before, after = axes[node.input[0]], axes[node.output[0]]
    widths = [width for width in after[2:] if isinstance(width, int) and width]
    if not has_tokens(before) or len(widths) < len(after) - 2 or _attribute(node, "allowzero", 0):
        return None
    return PackedForm({0: 2}, constants={1: [0, *widths]})  # 0 keeps the number of tokens


def _transpose(node: Any, axes: Axes, _: Mapping[str, list[int]]) -> PackedForm | None:
    order = _attribute(node, "perm", [])
    if list(order[:2]) != [0, 1] or not has_tokens(axes[node.input[0]]):
        return None
    return PackedForm({0: 2}, attributes={"perm": [0, *(place - 1 for place in order[2:])]})


def _squeeze(node: Any, axes: Axes, integers: Mapping[str, list[int]]) -> PackedForm | None:
    return _along_axes(node, axes, _given_axes(node, integers, place=1))


def _unsqueeze(node: Any, axes: Axes, integers: Mapping[str, list[int]]) -> PackedForm | None:
    return _along_axes(node, axes, _given_axes(node, integers, place=1), rank=len(axes[node.output[0]]))


def _slice(node: Any, axes: Axes, integers: Mapping[str, list[int]]) -> PackedForm | None:
    return _along_axes(node, axes, _given_axes(node, integers, place=3), place=3)


def _concat(node: Any, axes: Axes, _: Mapping[str, list[int]]) -> PackedForm | None:
    if not all(has_tokens(axes[name]) for name in node.input):
        return None
    form = _along_axis(node, axes, default=0)
    return form and PackedForm(dict.fromkeys(range(len(node.input)), 2), form.attributes)


def _split(node: Any, axes: Axes, _: Mapping[str, list[int]]) -> PackedForm | None:
    return _along_axis(node, axes, default=0)


_FORMS: dict[str, Callable[[Any, Axes, Mapping[str, list[int]]], PackedForm | None]] = {
    "Concat": _concat,
    "Gather": _gather,
    "MatMul": _matmul,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}


def _along_axis(node: Any, axes: Axes, *, default: int) -> PackedForm | None:
    """An operator with one attribute ``axis``."""
    tokens = axes[node.input[0]]
    from_end = _from_end([_attribute(node, "axis", default)], len(tokens))
    if not has_tokens(tokens) or from_end is None:
        return None
    return PackedForm({0: 2}, attributes={"axis": from_end[0]})


def _along_axes(
    node: Any, axes: Axes, given: list[int] | None, *, place: int = 1, rank: int | None = None
) -> PackedForm | None:
    """An operator with several axes, as an attribute or as an input at ``place``."""
    tokens = axes[node.input[0]]
    from_end = _from_end(given or [], rank or len(tokens))
    if not has_tokens(tokens) or not from_end:
        return None
    if len(node.input) > place:
        return PackedForm({0: 2}, constants={place: from_end})
    return PackedForm({0: 2}, attributes={"axes": from_end})


def _given_axes(node: Any, integers: Mapping[str, list[int]], *, place: int) -> list[int] | None:
    return integers.get(node.input[place]) if len(node.input) > place else _attribute(node, "axes", None)


def _from_end(numbers: Sequence[int], rank: int) -> list[int] | None:
    """Axes counted from the end, where packing changes nothing; None if one of them is batch or sequence."""
    from_end = [number if number < 0 else number - rank for number in numbers]
    return from_end if all(number >= 2 - rank for number in from_end) else None


def _are_numbers(axes: Sequence[int | str | None]) -> bool:
    return all(isinstance(axis, int) for axis in axes)


def _attribute(node: Any, name: str, default: Any) -> Any:
    helper = require("onnx", extra="onnx").helper
    return next((helper.get_attribute_value(given) for given in node.attribute if given.name == name), default)
