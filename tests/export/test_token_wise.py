"""Every packed form gives the tokens of the padded operator; what mixes tokens has none."""

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper, parser

from st_plugins_export.axes import find_axes
from st_plugins_export.token_wise import packed_form

HEADER = '<ir_version: 8, opset_import: ["": 17]> g (int64[B, T] mask, int64[B, T] ids, float[B, T, 2, 6] x)'
WEIGHTS = """<float[6, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9}, float[6] b = {1, 2, 3, 4, 5, 6},
 float[1, 1, 1, 6] wide = {6, 5, 4, 3, 2, 1}, float[3, 2] table = {1, 2, 3, 4, 5, 6}, int64[1] two = {2},
 int64[1] three = {3}, int64[1] last = {-1}, int64[1] zero = {0}, int64[2] pair = {0, 1}, int64[1] one = {1},
 int64[3] halves = {0, 0, 12}, int64[2] split = {2, 4}, int64[1] four = {4}>"""
TOKEN_WISE = [
    "y = Erf(x)",
    "y = Add(x, b)",
    "y = Mul(wide, x)",
    "y = MatMul(x, w)",
    "y = Gather(table, ids)",
    "y = Gather<axis=3>(x, pair)",
    "y = Gather<axis=-2>(x, pair)",
    "y = ReduceMean<axes=[-1]>(x)",
    "y = ReduceMean<axes=[2, 3], keepdims=0>(x)",
    "y = ReduceSum(x, three)",
    "y = Softmax<axis=2>(x)",
    "y = LayerNormalization<axis=3>(x, b)",
    "y = Reshape(x, halves)",
    "y = Transpose<perm=[0, 1, 3, 2]>(x)",
    "y = Unsqueeze(x, last)",
    "y = Unsqueeze(x, two)",
    "z = Unsqueeze(x, three) y = Squeeze(z, three)",
    "y = Concat<axis=-1>(x, x)",
    "y, z = Split<axis=3>(x, split)",
    "y = Slice(x, zero, two, three)",
    "c = ReduceMax<axes=[0], keepdims=1>(x) y = Sub(x, c)",
    "c = ReduceMax<axes=[1], keepdims=1>(x) y = Sub(c, x)",
    "c = ReduceMax<axes=[0], keepdims=0>(x) y = Div(x, c)",
]
MIXING = [
    "y = ReduceMean<axes=[1]>(x)",
    "y = ReduceMean(x)",
    "y = Softmax<axis=1>(x)",
    "y = CumSum(ids, one)",
    "y = Transpose<perm=[1, 0, 2, 3]>(x)",
    "y = Gather<axis=1>(x, pair)",
    "y = Slice(x, zero, two, one)",
    "y = Slice(x, zero, two)",
    "y = Concat<axis=1>(x, x)",
    "y = Unsqueeze(x, zero)",
    "y = Flatten<axis=2>(x)",
    "s = Transpose<perm=[0, 1, 3, 2]>(x) y = MatMul(x, s)",  # weights that depend on the token
    "y = Expand(ids, one)",  # computes nothing, and its shape is read elsewhere
]


def build(body):
    """The operators, and the last one of them."""
    model = parser.parse_model(f"{HEADER} => (float[?] y) {WEIGHTS} {{ {body} }}")
    return model, next(node for node in model.graph.node if "y" in node.output)


def form_of(body):
    model, node = build(body)
    integers = {tensor.name: list(tensor.int64_data) for tensor in model.graph.initializer if tensor.int64_data}
    return packed_form(node, find_axes(model, "mask"), integers)


def run(model, names, feeds):
    del model.graph.output[:]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(names, feeds)


def packed(value, count, is_real):
    """By loops: what a token sees of an operand, for every real token."""
    rows = []
    for row, column in zip(*np.nonzero(is_real), strict=True):
        place = (row, column)[2 - count :]
        rows.append(value[tuple(0 if width == 1 else at for at, width in zip(place, value.shape, strict=False))])
    return np.stack(rows)


@pytest.mark.parametrize("body", TOKEN_WISE)
def test_packed_tokens_are_the_tokens_of_the_padded_operator(body):
    form = form_of(body)
    assert form is not None
    model, node = build(body)
    generator = np.random.default_rng(0)
    is_real = np.array([[1, 1, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0]], dtype=bool)
    feeds = {"mask": is_real.astype(np.int64), "ids": generator.integers(0, 3, (3, 4))}
    feeds["x"] = generator.normal(size=(3, 4, 2, 6)).astype(np.float32)
    names = ["y", *[node.input[place] for place in form.operands]]
    weights = {tensor.name for tensor in model.graph.initializer}
    computed = [name for name in names if name not in weights and name not in feeds]
    values = {**feeds, **dict(zip(computed, run(model, computed, feeds), strict=True)), **constants(model)}

    alone = parser.parse_model(f"{HEADER} => (float[?] y) {WEIGHTS} {{ y = Neg(x) }}")
    del alone.graph.node[:], alone.graph.input[:]
    for place, count in form.operands.items():
        value = packed(values[node.input[place]], count, is_real)
        node.input[place] = f"operand_{place}"
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        alone.graph.input.append(helper.make_tensor_value_info(node.input[place], kind, value.shape))
        values[node.input[place]] = value
    for place, numbers in form.constants.items():
        node.input[place] = f"constant_{place}"
        alone.graph.initializer.append(helper.make_tensor(node.input[place], 7, [len(numbers)], numbers))
    attributes = {given.name: helper.get_attribute_value(given) for given in node.attribute} | dict(form.attributes)
    del node.attribute[:]
    node.attribute.extend(helper.make_attribute(*pair) for pair in attributes.items())
    alone.graph.node.append(node)
    found = run(alone, ["y"], {tensor.name: values[tensor.name] for tensor in alone.graph.input})[0]
    np.testing.assert_allclose(found, values["y"][is_real], atol=1e-6)


def constants(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("body", MIXING)
def test_what_mixes_tokens_has_no_packed_form(body):
    assert form_of(body) is None


def test_an_operator_of_another_domain_is_not_trusted():
    _, node = build("y = Erf(x)")
    node.domain = "com.microsoft"
    assert packed_form(node, {"x": ("batch", "sequence", 4), "y": ("batch", "sequence", 4)}, {}) is None


def test_an_unknown_shape_is_not_trusted():
    _, node = build("y = Erf(x)")
    assert packed_form(node, {"x": ("batch", "sequence", 4)}, {}) is None
