"""SmoothQuant: the divisors by hand, and that they help where columns differ."""

import numpy as np
from onnx import numpy_helper, parser

from st_plugins_export.closeness import cosines, run_graph
from st_plugins_export.row_int8 import to_row_int8
from st_plugins_export.smoothing import divisors, smoothed_int8


def network(weight, shift):
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, 8] x) => (float[N, 6] sentence_embedding) '
        "{ a = Mul(x, s) sentence_embedding = MatMul(a, w) }"
    )
    for name, array in (("w", weight), ("s", shift)):
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    return model


def test_divisors_by_hand():
    found = divisors({"x": np.array([16.0, 0.0, 4.0])}, {"x": np.array([4.0, 1.0, 0.0])}, 0.5)["x"]
    assert found.dtype == np.float32
    assert found.tolist() == [2.0, 1.0, 1.0]  # 16^0.5 / 4^0.5, and nothing where one of both is zero
    assert divisors({"x": np.array([16.0])}, {"x": np.array([4.0])}, 1.0)["x"].tolist() == [16.0]
    assert divisors({"x": np.array([16.0])}, {"x": np.array([4.0])}, 0.0)["x"].tolist() == [0.25]


def test_one_large_column_costs_less_with_it():
    random = np.random.default_rng(0)
    model = network(random.normal(size=(8, 6)), np.array([60.0, 1, 1, 1, 1, 1, 1, 1]))
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(
            (numpy_helper.to_array(model.graph.initializer[0]) / [[60]] + 0).astype(np.float32), "w"
        )
    )
    batches = [{"x": random.normal(size=(32, 8)).astype(np.float32)} for _ in range(2)]
    expected = run_graph(model, batches)[0]
    before, after = (
        1 - cosines(expected, run_graph(lowered, batches)[0]).mean()
        for lowered in (to_row_int8(model), smoothed_int8(model, batches))
    )
    assert after < before / 2
