"""A packed graph is taken only if it gives the values of the padded one."""

import numpy as np
import pytest
from onnx import parser

from st_plugins_export.safe_packing import check_packed, pack_if_equal

HEADER = '<ir_version: 8, opset_import: ["": 17]> g (int64[B, T] ids, int64[B, T] mask) => (float[B, T, 2] y)'
WEIGHTS = "<float[3, 2] table = {9, 8, 1, 2, 3, 4}, float[2, 2] w = {1, 2, 3, 4}, int64[1] one = {1}>"
FEEDS = {"ids": np.array([[1, 2, 1], [2, 0, 0]]), "mask": np.array([[1, 1, 1], [1, 0, 0]])}


def packed(body):
    model = parser.parse_model(f"{HEADER} {WEIGHTS} {{ {body} }}")
    return model, pack_if_equal(model, FEEDS, "mask")


def test_a_graph_that_keeps_its_values_is_packed():
    model, result = packed("e = Gather(table, ids) y = MatMul(e, w)")
    assert result.reason == ""
    assert result.model is not model


def test_a_network_that_reads_padding_is_left_as_it_was():
    mixing = "e = Gather(table, ids) k = MatMul(e, w) m = ReduceMax<axes=[1], keepdims=1>(k) y = Add(k, m)"
    model, result = packed(mixing)
    assert result.model is model
    assert "y is 2.8e+01 off: the network reads padding" in result.reason


def test_a_graph_that_cannot_be_packed_says_why():
    model, result = packed("y = Gather(table, ids)")
    assert result.model is model
    assert "no product with weights" in result.reason


@pytest.mark.parametrize("choice", ["yes", None, 1, 0])
def test_other_choices_are_refused(choice):
    with pytest.raises(ValueError, match="packed must be True, False or 'auto', got"):
        check_packed(choice)
