"""Axes are what they are at every size, and nothing fits by accident."""

import pytest
from onnx import parser

from st_plugins_export.axes import find_axes


def axes(body, inputs="int64[B, T] mask, float[B, T, 4] x", weights=""):
    text = f'<ir_version: 8, opset_import: ["": 17]> g ({inputs}) => (float[?] y) {weights} {{ {body} }}'
    return find_axes(parser.parse_model(text), "mask")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Identity(x)", ("batch", "sequence", 4)),
        ("y = Transpose<perm=[1, 2, 0]>(x)", ("sequence", 4, "batch")),
        ("y = ReduceMax<axes=[1], keepdims=1>(x)", ("batch", 1, 4)),
        ("y = Concat<axis=1>(x, x)", ("batch", None, 4)),  # two T
        ("y = Flatten<axis=2>(x)", (None, 4)),  # B T
        ("r = Cast<to=9>(mask) y = NonZero(r)", (2, None)),  # real tokens are fewer than B T
    ],
)
def test_axes_of_a_value(body, expected):
    assert axes(body)["y"] == expected


def test_inputs_and_weights_have_axes_too():
    found = axes("y = MatMul(x, w)", weights="<float[4, 1] w = {1, 2, 3, 4}>")
    assert (found["w"], found["x"], found["mask"]) == ((4, 1), ("batch", "sequence", 4), ("batch", "sequence"))
    assert found["y"] == ("batch", "sequence", 1)


def test_a_value_whose_rank_varies_has_no_axes():
    shrinking = (
        "s = Shape<start=0, end=1>(x) n = ConstantOfShape(s) i = Cast<to=7>(n) z = ConstantOfShape(i) y = Identity(x)"
    )
    assert axes(shrinking)["n"] == ("batch",)
    assert "z" not in axes(shrinking)


def test_axes_may_have_any_name():
    text = '<ir_version: 8, opset_import: ["": 17]> g (int64[n, m] mask) => (float[?] y) { y = Cast<to=1>(mask) }'
    assert find_axes(parser.parse_model(text), "mask")["y"] == ("batch", "sequence")
