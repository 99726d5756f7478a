"""Self-unpadding graphs: token ids and a mask (B, T) in as ever, but inside only the real tokens (N, ...) are computed.

    ids (B, T) --pack--> embeddings (N, D) --> MatMul --unpack--> attention (B, H, T, T) --pack--> MatMul (N, D) --> ...

Where a value keeps its tokens apart, and the operators that make it do so too, they run on packed tokens; between them
and the others (attention, pooling) tokens are put back into rows. Standard operators only, so any server runs it.
Knows no architecture: it asks which axes are batch and sequence, and which operators treat every token by itself.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from st_plugins_export.axes import BATCH, SEQUENCE, find_axes
from st_plugins_export.external_data import MOST_BYTES
from st_plugins_export.extras import require
from st_plugins_export.fragments import cut, reads
from st_plugins_export.token_wise import PackedForm, has_tokens, is_lookup, is_product_with_weights, packed_form

_PREFIX = "packing/"


@dataclass(frozen=True)
class PackedGraph:
    """What :func:`pack_tokens` made of a graph.

    Args:
        model: ``onnx.ModelProto``.
        products: Products with weights that are computed for real tokens only.
        reason: Why the graph is the one that was given; empty if it is not.
    """

    model: Any
    products: int
    reason: str = ""


def pack_tokens(model: Any, mask: str = "attention_mask") -> PackedGraph:
    """Compute real tokens only, wherever a graph treats tokens one by one.

    Inputs and outputs keep their names, shapes and order; real tokens and sentence vectors keep their values, to within
    rounding. What an output holds of each token, (B, T, ...), becomes zeros at padding. Padding may be anywhere in a
    row, and a row may be nothing but padding. Only a graph that reads padding without a mask (a convolution over
    tokens) changes its values, as it has none that do not depend on the batch: compare before you use the result.

    Args:
        model: ``onnx.ModelProto``, opset 13 or later; left as it is.
        mask: The input (B, T), 1 at real tokens and 0 at padding, both axes dynamic.

    Returns:
        PackedGraph: Its ``model`` is the given one if nothing would be gained; ``reason`` then says why.

    Example:
        >>> from onnx import parser
        >>> model = parser.parse_model('<ir_version: 8, opset_import: ["": 17]>'
        ...     "g (int64[B, T] attention_mask, float[B, T, 2] x) => (float[B, T, 1] y)"
        ...     "<float[2, 1] w = {1, 2}> { y = MatMul (x, w) }")
        >>> pack_tokens(model).products
        1
        >>> pack_tokens(pack_tokens(model).model).reason
        'no product with weights is computed token by token'
    """
    inputs = {tensor.name: [dim.dim_param for dim in tensor.type.tensor_type.shape.dim] for tensor in model.graph.input}
    names = inputs.get(mask, [])
    if len(names) != 2 or not all(names) or names[0] == names[1]:
        return PackedGraph(model, 0, f"it has no input {mask} (B, T) whose axes are dynamic")
    if sum(len(weight.raw_data) for weight in model.graph.initializer) > MOST_BYTES:
        return PackedGraph(model, 0, "its weights exceed 2 GiB")
    return _Packing(model, mask).packed()


class _Packing:
    """The work of :func:`pack_tokens` on one graph. The packed form of a value x is called ``x/packed``."""

    def __init__(self, model: Any, mask: str) -> None:
        self._onnx = require("onnx", extra="onnx")
        self._model = model
        self._mask = mask
        self._nodes = list(model.graph.node)
        self._axes = find_axes(model, mask)
        self._outputs = [tensor.name for tensor in model.graph.output]
        integers = _integer_vectors(model)
        forms = (packed_form(node, self._axes, integers) for node in self._nodes)
        self._forms = {index: form for index, form in enumerate(forms) if form}
        self._makers = {name: index for index, node in enumerate(self._nodes) for name in node.output}
        self._readers: dict[str, list[int]] = defaultdict(list)
        for index, node in enumerate(self._nodes):
            for name in reads(node):
                self._readers[name].append(index)
        self._region = self._find_region()
        self._written: list[Any] = []
        self._made: set[str] = set()

    def packed(self) -> PackedGraph:
        products = sum(is_product_with_weights(self._nodes[index]) for index in self._region)
        if not products:
            return PackedGraph(self._model, 0, "no product with weights is computed token by token")
        self._write_places()
        for index, node in enumerate(self._nodes):
            if index in self._region:
                self._write_packed(node, self._forms[index])
            elif node.op_type == "Shape" and self._is_known(node):
                self._write_shape(node)
            else:
                self._written.append(node)
        model = type(self._model)()
        model.CopyFrom(self._model)
        del model.graph.node[:], model.graph.value_info[:]
        model.graph.node.extend(self._written)
        fragment = cut(model, (), self._outputs)  # leaves out what nobody reads any more
        del model.graph.node[:], model.graph.initializer[:]
        model.graph.node.extend(fragment.nodes)
        model.graph.initializer.extend(fragment.weights.values())
        return PackedGraph(model, products)

    def _find_region(self) -> set[int]:
        """The operators to run on packed tokens.

        From where tokens become vectors, downwards: what lies above (positions counted over a mask) may need padding.
        Upwards only as far as nobody else reads the result.
        """
        region = {index for index in self._forms if self._is_start(index)}
        size = 0
        while size < len(region):
            size = len(region)
            for index, form in self._forms.items():
                if self._continues(index, form, region) or self._prepares(index, form, region):
                    region.add(index)
        return region - self._masked_ends(region)

    def _masked_ends(self, region: set[int]) -> set[int]:
        """Operators that begin a pooling: no product needs them, and they read what is not packed, such as the mask."""
        needed: set[int] = set()
        for index in sorted(region, reverse=True):  # readers come before what they read
            readers = {reader for name in self._nodes[index].output for reader in self._readers[name]}
            if self._is_start(index) or readers & needed:
                needed.add(index)
        ends: set[int] = set()
        for index in sorted(region - needed):
            form = self._forms[index]
            makers = {self._makers.get(self._nodes[index].input[place]) for place in form.operands}
            if makers & ends or self._borders(index, form, region):
                ends.add(index)
        return ends

    def _is_start(self, index: int) -> bool:
        node = self._nodes[index]
        return is_product_with_weights(node) or is_lookup(node, self._forms[index])

    def _continues(self, index: int, form: PackedForm, region: set[int]) -> bool:
        return any(self._makers.get(self._nodes[index].input[place]) in region for place in form.operands)

    def _prepares(self, index: int, form: PackedForm, region: set[int]) -> bool:
        names = self._nodes[index].output
        readers = [reader for name in names for reader in self._readers[name]]
        is_read_only_here = readers and all(
            reader in region or self._nodes[reader].op_type == "Shape" for reader in readers
        )
        is_output = any(name in self._outputs for name in names)
        return bool(is_read_only_here and not is_output and len(self._borders(index, form, region)) == 1)

    def _borders(self, index: int, form: PackedForm, region: set[int]) -> set[str]:
        """The operands that would have to be packed."""
        names = {self._nodes[index].input[place]: count for place, count in form.operands.items()}
        return {
            name
            for name, count in names.items()
            if self._makers.get(name) not in region and {BATCH, SEQUENCE} & set(self._axes[name][:count])
        }

    def _write_places(self) -> None:
        """Where tokens are. What nobody reads is left out in the end."""
        types = self._onnx.TensorProto
        self._write("Shape", [self._mask], "shape")
        self._write("Cast", [self._mask], "real", to=types.BOOL)  # (B, T)
        self._write("NonZero", [_PREFIX + "real"], "positions")  # (2, N)
        self._write("Transpose", [_PREFIX + "positions"], "tokens")  # (N, 2)
        for name, number in (("rows", 0), ("columns", 1)):
            self._write("Gather", [_PREFIX + "positions", self._constant([], [number])], name, axis=0)  # (N,)
        self._write("Cast", [_PREFIX + "real"], "ones", to=types.INT64)
        self._write("Flatten", [_PREFIX + "ones"], "row", axis=0)  # (1, B T)
        self._write("CumSum", [_PREFIX + "row", self._constant([], [1])], "count")
        self._write("Reshape", [_PREFIX + "count", _PREFIX + "shape"], "numbers")  # (B, T), from 1 at real tokens
        # Row 0 of what is unpacked are zeros.
        self._write("Mul", [_PREFIX + "numbers", _PREFIX + "ones"], "places")  # (B, T)

    def _write_packed(self, node: Any, form: PackedForm) -> None:
        packed = type(node)()
        packed.CopyFrom(node)
        for place, count in form.operands.items():
            packed.input[place] = self._packed_operand(node.input[place], count)
        for place, numbers in form.constants.items():
            packed.input[place] = self._integers(numbers)
        kept = [attribute for attribute in node.attribute if attribute.name not in form.attributes]
        del packed.attribute[:]
        packed.attribute.extend(kept)
        packed.attribute.extend(self._onnx.helper.make_attribute(*pair) for pair in form.attributes.items())
        packed.output[:] = [_packed(name) for name in node.output]
        self._written.append(packed)
        for name in node.output:
            self._made.add(_packed(name))
            if name in self._outputs or any(self._reads_padded(reader) for reader in self._readers[name]):
                self._write_unpacked(name)

    def _reads_padded(self, reader: int) -> bool:
        node = self._nodes[reader]
        return reader not in self._region and not (node.op_type == "Shape" and self._is_known(node))

    def _write_unpacked(self, name: str) -> None:
        """Tokens back in rows, with zeros at padding."""
        others = [0] * (len(self._axes[name]) - 2)
        pads = self._integers([1, *others, 0, *others])
        self._write("Pad", [_packed(name), pads], f"{name}/behind_zeros", prefix="")
        self._write("Gather", [f"{name}/behind_zeros", _PREFIX + "places"], name, prefix="", axis=0)

    def _packed_operand(self, name: str, count: int) -> str:
        """The packed form of a value of which so many leading axes are those of the tokens, or broadcast over them."""
        leading = tuple(self._axes[name][:count])
        if leading == (BATCH, SEQUENCE):
            return self._write("GatherND", [name, _PREFIX + "tokens"], _packed(name), prefix="")
        flat = name
        if 1 in leading:
            ones = [axis for axis, width in enumerate(leading) if width == 1]
            flat = self._write("Squeeze", [name, self._integers(ones)], f"{name}/squeezed_{count}", prefix="")
        if set(leading) <= {1}:
            return flat
        which = _PREFIX + ("columns" if SEQUENCE in leading else "rows")
        return self._write("Gather", [flat, which], f"{name}/packed_{count}", prefix="", axis=0)

    def _is_known(self, node: Any) -> bool:
        axes = self._axes.get(node.input[0], ())
        return not node.attribute and has_tokens(axes) and all(isinstance(axis, int) for axis in axes[2:])

    def _write_shape(self, node: Any) -> None:
        """The shape of a value that need not be there: that of the mask, and numbers."""
        widths = [int(axis) for axis in self._axes[node.input[0]][2:] if axis is not None]
        parts = [_PREFIX + "shape", *([self._integers(widths)] if widths else [])]
        self._write("Concat", parts, node.output[0], prefix="", axis=0)

    def _integers(self, numbers: Sequence[int]) -> str:
        return self._constant([len(numbers)], numbers)

    def _constant(self, shape: list[int], numbers: Sequence[int]) -> str:
        name = ("scalar_" if not shape else "integers_") + "_".join(map(str, numbers))
        value = self._onnx.helper.make_tensor("", self._onnx.TensorProto.INT64, shape, numbers)
        return self._write("Constant", [], name, value=value)

    def _write(self, kind: str, inputs: list[str], output: str, *, prefix: str = _PREFIX, **attributes: Any) -> str:
        """Append an operator, unless its output has been made already."""
        output = prefix + output
        if output not in self._made:
            self._made.add(output)
            made = self._onnx.helper.make_node(kind, inputs, [output], name=_PREFIX + output, **attributes)
            self._written.append(made)
        return output


def _packed(name: str) -> str:
    return f"{name}/packed"


def _integer_vectors(model: Any) -> dict[str, list[int]]:
    """Constant integers of one axis: the axes that operators get as inputs."""
    onnx = require("onnx", extra="onnx")
    tensors: Iterable[Any] = (
        (node.output[0], attribute.t)
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.HasField("t")
    )
    weights = ((weight.name, weight) for weight in model.graph.initializer)
    return {
        name: onnx.numpy_helper.to_array(tensor).tolist()
        for name, tensor in [*tensors, *weights]
        if tensor.data_type == onnx.TensorProto.INT64 and len(tensor.dims) == 1
    }
