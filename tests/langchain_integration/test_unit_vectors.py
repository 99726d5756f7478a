import numpy as np
import pytest

from langchain_st_plugins.unit_vectors import unit_vectors
from st_plugins.errors import InputError, ShapeError, SizeError


def test_the_cut_comes_first_by_hand():
    cut = unit_vectors([[3.0, 4.0, 12.0]], dim=2)
    assert np.allclose(cut, [[0.6, 0.8]])
    assert cut.dtype == np.float32
    assert np.allclose(unit_vectors([[3.0, 4.0, 12.0]]), np.array([[3, 4, 12]]) / 13)


@pytest.mark.parametrize("size", [1e-40, 1e-25, 1e19, 1e38])
def test_any_length_that_float32_can_hold_becomes_one(size):
    rows = unit_vectors(np.array([[3.0, 2.0, 6.0]], dtype=np.float32) / 7 * np.float32(size))
    assert np.allclose(rows, [[3 / 7, 2 / 7, 6 / 7]], atol=1e-4 if size < 1e-37 else 1e-7)
    assert rows.dtype == np.float32


def test_the_input_is_left_as_it_was():
    rows = np.array([[3.0, 4.0]], dtype=np.float32)
    unit_vectors(rows)
    assert rows.tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize(
    ("rows", "dim", "error", "message"),
    [
        ([1.0, 2.0], None, ShapeError, r"must be rows, shape \(texts, width\), got \(2,\)"),
        ([[1.0, 2.0]], 3, SizeError, "dim must be from 1 to 2, the width of the embeddings, got 3"),
        ([[1.0, 2.0], [np.nan, 1.0]], None, InputError, "the one at position 1 holds NaN or infinity"),
        ([[np.inf, 2.0]], None, InputError, "the one at position 0 holds NaN or infinity"),
        ([[1.0, 2.0], [0.0, 1.0]], 1, InputError, "the one at position 1 is, at dim=1"),
    ],
)
def test_what_has_no_direction_is_refused(rows, dim, error, message):
    with pytest.raises(error, match=message):
        unit_vectors(rows, dim=dim)
