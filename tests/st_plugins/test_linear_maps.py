import numpy as np
import pytest
import torch

import reference
from st_plugins.linear_maps import RIDGES, Moments, held_out_rows, ridge_map


def moments(x, y):
    return Moments.of(x[:, None], y).map(0)


def pairs(count=40, width=5, other=3):
    x = torch.randn(count, width, dtype=torch.float64) + 1
    y = x @ torch.randn(width, other, dtype=torch.float64) + torch.randn(count, other, dtype=torch.float64)
    return x, y


@pytest.mark.parametrize("ridge", RIDGES)
def test_ridge_is_least_squares_with_the_penalty_as_further_rows(ridge):
    x, y = pairs()
    weight, bias = moments(x, y).solve(ridge)
    centred = (x - x.mean(0)).numpy()
    penalty = np.sqrt(ridge * (centred**2).sum() / 5) * np.eye(5)
    below = np.vstack([(y - y.mean(0)).numpy(), np.zeros((5, 3))])
    expected = np.linalg.lstsq(np.vstack([centred, penalty]), below, rcond=None)[0].T
    assert weight.numpy() == pytest.approx(expected, abs=1e-10)
    assert bias.numpy() == pytest.approx((y.mean(0) - torch.tensor(expected) @ x.mean(0)).numpy(), abs=1e-10)


def test_a_rotation_is_the_best_of_all_those_of_the_plane():
    for seed in range(2):
        torch.manual_seed(seed)
        x, y = torch.randn(9, 2, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
        expected = reference.rotation_of_the_plane(x.tolist(), y.tolist())
        assert moments(x, y).rotate().numpy() == pytest.approx(np.array(expected), abs=3e-3)


def test_a_rotation_that_is_there_is_found():
    x = torch.randn(50, 8, dtype=torch.float64)
    turned = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    assert (moments(x, x @ turned).rotate() - turned.T).abs().max() < 1e-12


def test_rotations_between_widths_have_orthonormal_rows_or_columns():
    x, y = pairs()
    assert torch.allclose(moments(x, y).rotate() @ moments(x, y).rotate().T, torch.eye(3, dtype=torch.float64))
    assert torch.allclose(moments(y, x).rotate().T @ moments(y, x).rotate(), torch.eye(3, dtype=torch.float64))


def test_the_error_is_the_sum_over_texts_and_sums_add_up():
    x, y = pairs()
    weight, bias = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    expected = float(((x @ weight.T + bias - y) ** 2).sum())
    assert moments(x, y).error(weight, bias) == pytest.approx(expected)
    parts = moments(x[:7], y[:7]) + moments(x[7:], y[7:])
    assert parts.error(weight, bias) == pytest.approx(expected)


def test_the_strength_is_the_best_one_on_the_texts_held_out():
    x, y = pairs(count=12, width=8)
    weight, bias = ridge_map(moments(x[:4], y[:4]), moments(x[4:], y[4:]))
    found = []
    for ridge in RIDGES:
        w, b = moments(x[4:], y[4:]).solve(ridge)
        found.append(float(((x[:4] @ w.T + b - y[:4]) ** 2).sum()))
    w, b = moments(x, y).solve(RIDGES[int(np.argmin(found))])
    assert torch.allclose(weight, w)
    assert torch.allclose(bias, b)
    assert np.argmin(found) > 0, "noise enough that the weakest is not the best, or this test shows nothing"


def test_texts_that_are_all_alike_give_no_direction():
    x, y = torch.randn(1, 8, dtype=torch.float64), torch.randn(1, 3, dtype=torch.float64)
    weight, bias = moments(x.repeat(1000, 1), y.repeat(1000, 1)).solve(RIDGES[0])
    assert not weight.any()
    assert torch.allclose(bias, y[0])


@pytest.mark.parametrize("count", [10, 11, 1003])
def test_one_text_in_five_is_held_out_and_always_the_same(count):
    assert held_out_rows(count).sum() == -(-count // 5)
    assert torch.equal(held_out_rows(count), held_out_rows(count))
