"""Which operators are products with weights, wherever they lie."""

import numpy as np
import pytest
from onnx import numpy_helper, parser

from st_plugins_export.products import as_product, find_products, weights_in

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)


def parse(body, **weights):
    inputs = "float[N, 4] x, float[4, 3] z, bool c"
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g ({inputs}) => (float[N, 3] y) {{{body}}}')
    for name, array in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return model.graph


@pytest.mark.parametrize(
    ("body", "weight", "bias"),
    [
        ("y = MatMul(x, w)", WEIGHT, None),
        ("y = Gemm(x, w)", WEIGHT, None),
        ("y = Gemm<transB=1>(x, w, b)", WEIGHT.T.copy(), "b"),
    ],
)
def test_the_weight_is_given_as_it_multiplies(body, weight, bias):
    (product,) = find_products(parse(body, w=weight, b=np.zeros(3, np.float32)))
    np.testing.assert_array_equal(product.weight, WEIGHT)
    assert (product.activation, product.bias) == ("x", bias)


@pytest.mark.parametrize(
    "body",
    [
        "y = MatMul(x, z)",
        "y = MatMul(v, w)",
        "y = MatMul(x, d)",
        "y = Gemm<transA=1>(x, w)",
        "y = Gemm<alpha=2.0>(x, w)",
        "y = Gemm<beta=0.5>(x, w, b)",
        "y = Add(x, w)",
    ],
)
def test_others_are_none(body):
    weights = {
        "w": WEIGHT,
        "v": np.ones((2, 4), np.float32),
        "d": WEIGHT.astype(np.float64),
        "b": np.zeros(3, np.float32),
    }
    graph = parse(body, **weights)
    assert list(find_products(graph)) == []
    assert as_product(graph.node[0], weights_in(graph)) is None


def test_a_product_inside_a_branch_finds_the_weights_around_it():
    graph = parse(
        """y = If(c) <
        then_branch = t () => (float[N, 3] a) { a = MatMul(x, w) },
        else_branch = e () => (float[N, 3] b) { p = MatMul(x, w) b = Neg(p) }
        >""",
        w=WEIGHT,
    )
    assert sorted(product.node.output[0] for product in find_products(graph)) == ["a", "p"]
