"""Vectors depend on their text alone: not on order, neighbours, padding or the run."""

import numpy as np
import pytest

import st_plugins
from st_plugins_export import OnnxEncoder

TEXTS = [" ".join((["the", "cat", "red", "dog", "tree", "sat"] * 6)[: 1 + 7 * i % 30]) + f" {i}" for i in range(40)]


@pytest.fixture(params=["torch", "onnx"])
def encoder(request, _saved_once, _exported_once):
    return st_plugins.load(_saved_once, device="cpu") if request.param == "torch" else OnnxEncoder(_exported_once)


@pytest.mark.parametrize("options", [{}, {"layer": 2, "truncate_dim": 8}], ids=str)
def test_order_neighbours_and_padding_change_nothing(encoder, options):
    expected = np.stack([encoder.encode(text, **options) for text in TEXTS])
    for batch_size in (1, 7, 32):
        np.testing.assert_allclose(encoder.encode(TEXTS, batch_size=batch_size, **options), expected, atol=1e-6)
    order = np.random.default_rng(0).permutation(len(TEXTS))
    found = encoder.encode([TEXTS[place] for place in order], **options)
    np.testing.assert_allclose(found, expected[order], atol=1e-6)


def test_two_runs_give_the_same_bits(encoder):
    assert np.array_equal(encoder.encode(TEXTS), encoder.encode(TEXTS))
