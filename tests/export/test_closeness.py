"""Cosines against loops, and every bar that a graph can miss."""

import math

import numpy as np
import pytest
from onnx import parser

from st_plugins.errors import ParityError
from st_plugins_export.closeness import Closeness, cosines, run_graph
from st_plugins_export.precisions import PRECISIONS, Precision

LOOSE = Precision("fp16", "_fp16", 0.99, 0.1, 0.0)
TEXTS = ["one", "two"]


@pytest.fixture
def vectors():
    return np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)


def test_cosines_are_those_of_loops(vectors):
    other = np.random.default_rng(1).normal(size=(2, 6)).astype(np.float32)
    for found, a, b in zip(cosines(vectors, other), vectors.tolist(), other.tolist(), strict=True):
        product = sum(x * y for x, y in zip(a, b, strict=True))
        lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
        assert found == pytest.approx(product / lengths, abs=1e-12)


def test_a_zero_vector_is_only_like_another_one():
    zero, one = np.zeros((1, 2)), np.ones((1, 2))
    assert cosines(zero, zero).tolist() == [1.0]
    assert cosines(zero, one).tolist() == cosines(one, zero).tolist() == [0.0]


def test_figures_cover_all_batches(vectors):
    closeness = Closeness("file", LOOSE, 1e-5)
    closeness.add(TEXTS, vectors, vectors)
    closeness.add(TEXTS, vectors, vectors + np.float32(0.01))
    expected = cosines(vectors, vectors + np.float32(0.01))
    assert closeness.max_difference == pytest.approx(0.01, abs=1e-6)
    assert closeness.cosine_mean == pytest.approx((2 + expected.sum()) / 4)
    assert closeness.cosine_min == pytest.approx(expected.min())
    closeness.check()


def test_float32_is_held_to_the_tolerance_in_every_number(vectors):
    closeness = Closeness("file", PRECISIONS["fp32"], 1e-5)
    closeness.add(TEXTS, vectors, vectors)
    closeness.check()
    with pytest.raises(
        ParityError, match="file must give .* to within 1e-05, and is 1.0e-02 off in a batch of 2 .*'one'"
    ):
        closeness.add(TEXTS, vectors, vectors + np.float32(0.01))


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_no_precision_may_give_what_is_no_number(vectors, number):
    found = vectors.copy()
    found[1, 2] = number
    with pytest.raises(ParityError, match=f"and is {number} off"):
        Closeness("file", LOOSE, 1e-5).add(TEXTS, vectors, found)


def test_a_mean_below_the_bar_is_an_error(vectors):
    closeness = Closeness("file", LOOSE, 1e-5)
    closeness.add(TEXTS, vectors, vectors + np.float32(0.5))
    with pytest.raises(
        ParityError, match=r"at least 0\.99000 on average and 0\.9000 .*; it is 0\.\d+ and 0\.\d+\. Leave"
    ):
        closeness.check()


def test_one_bad_text_is_an_error(vectors):
    closeness = Closeness("file", LOOSE, 1e-5)
    for _ in range(200):
        closeness.add(TEXTS, vectors, vectors)
    closeness.add(["bad"], vectors[:1], -vectors[:1])
    assert closeness.cosine_mean > 0.99
    with pytest.raises(ParityError, match=r"it is 0\.99\d+ and -1\.0000"):
        closeness.check()


def test_a_text_that_changes_with_its_batch_is_an_error(vectors):
    closeness = Closeness("file", LOOSE, 1e-5)
    closeness.add(["one"], vectors[:1], vectors[:1])
    closeness.add(TEXTS, vectors, vectors)
    assert closeness.alone_difference == 0
    shifted = vectors.copy()
    shifted[0, 3] += np.float32(0.2 * np.linalg.norm(vectors[0]))
    closeness.add(TEXTS, vectors, shifted)
    assert closeness.alone_difference == pytest.approx(0.2, rel=1e-5)
    with pytest.raises(
        ParityError, match=r"alone and in a batch, to within 1e-01 of its length; they differ by 2\.0e-01"
    ):
        closeness.check()


def test_vectors_of_different_layers_are_not_compared(vectors):
    closeness = Closeness("file", LOOSE, 1e-5)
    closeness.add(["one"], vectors[:1], vectors[:1], places=[3])
    closeness.add(TEXTS, vectors, vectors[::-1], places=[2, 3])
    assert closeness.alone_difference == 0


def test_a_graph_is_run_over_all_batches():
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[N, 2] sentence_embedding, int64[1] other)'
        "{sentence_embedding = Neg(x) other = Shape<start=0, end=1>(x)}"
    )
    batches = [{"x": np.ones((rows, 2), np.float32)} for rows in (1, 2)]
    vectors, layers = run_graph(model, batches)
    assert vectors.tolist() == [[-1, -1]] * 3
    assert layers is None
