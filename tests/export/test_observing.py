"""Looking into graphs: maxima by column, against numpy, in branches as well."""

import numpy as np
from onnx import TensorProto, parser

from st_plugins_export.observing import column_maxima, float_values

BRANCHES = """
<ir_version: 9, opset_import: ["": {opset}]>
g (float[N, 3] x, bool choice) => (float[N, 3] y)
{{
  doubled = Add(x, x)
  y = If(choice) <
    then_branch = t () => (float[N, 3] a) {{ inner = Mul(doubled, x) a = Neg(inner) }},
    else_branch = e () => (float[N, 3] b) {{ b = Abs(doubled) }}
  >
}}
"""


def batches(choices):
    random = np.random.default_rng(0)
    return [{"x": random.normal(size=(4, 3)).astype(np.float32), "choice": np.array(choice)} for choice in choices]


def test_maxima_are_those_of_numpy_inside_branches_too():
    for opset in (17, 18):
        model = parser.parse_model(BRANCHES.format(opset=opset))
        before = model.SerializeToString()
        given = batches([True, False, True])
        found = column_maxima(model, {"x", "doubled", "inner", "b"}, given)
        inputs = [batch["x"] for batch in given]
        np.testing.assert_allclose(found["x"], np.abs(np.concatenate(inputs)).max(axis=0))
        np.testing.assert_allclose(found["doubled"], 2 * np.abs(np.concatenate(inputs)).max(axis=0))
        squares = [2 * given[place]["x"] ** 2 for place in (0, 2)]
        np.testing.assert_allclose(found["inner"], np.concatenate(squares).max(axis=0), rtol=1e-6)
        np.testing.assert_allclose(found["b"], 2 * np.abs(inputs[1]).max(axis=0))
        assert model.SerializeToString() == before


def test_a_branch_that_never_runs_has_no_maxima():
    found = column_maxima(parser.parse_model(BRANCHES.format(opset=17)), {"inner", "b"}, batches([False]))
    assert list(found) == ["b"]


def test_masks_are_left_out():
    model = parser.parse_model(BRANCHES.format(opset=17))
    x = np.array([[1, -3.4e38, 2], [-5, 4, np.finfo(np.float32).max]], dtype=np.float32)
    assert column_maxima(model, {"x"}, [{"x": x, "choice": np.array(False)}])["x"].tolist() == [5, 4, 2]


def test_where_the_width_varies_only_the_largest_number_is_kept():
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, K] x) => (float[N, K] y) {y = Neg(x)}'
    )
    given = [{"x": np.array([[1, 7]], np.float32)}, {"x": np.array([[3, 2, 1]], np.float32)}]
    assert column_maxima(model, {"y"}, given)["y"].tolist() == [7]


def test_float_values_are_found_at_every_depth_with_their_rank():
    model = parser.parse_model(BRANCHES.format(opset=17))
    assert float_values(model) == {"x": 2, "doubled": 2, "inner": 2, "a": 2, "b": 2, "y": 2}
    assert model.graph.input[1].type.tensor_type.elem_type == TensorProto.BOOL


def test_nothing_to_watch_is_nothing_found():
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[N, 2] y) { y = Neg(x) }'
    )
    assert column_maxima(model, [], [{"x": np.ones((1, 2), np.float32)}]) == {}
