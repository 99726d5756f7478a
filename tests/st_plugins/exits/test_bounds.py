import math

import numpy as np
import pytest

import reference
from families import but_slow
from st_plugins.errors import ExitError
from st_plugins.exits.bounds import BOUNDS, betting, fewest_texts, fixed_sequence, hoeffding, hoeffding_bentkus


def losses(ones, n):
    return np.repeat([1.0, 0.0], [ones, n - ones])


@pytest.mark.parametrize(
    ("p_value", "sample", "golden"),
    [
        (hoeffding_bentkus, losses(0, 100), 2.656e-5),  # 0.9 ** 100
        (hoeffding_bentkus, losses(25, 500), 9.62e-5),
        (hoeffding, losses(25, 500), 0.0821),
        (hoeffding, losses(0, 100), 0.1353),
        (betting, np.array([0.0]), 1 / 1.1),  # one bet of everything
        (betting, np.array([1.0]), 1.0),  # lost
        (betting, np.array([0.0, 0.0, 1.0]), 1 / 1.1**2),  # what was won before a loss stays won
    ],
)
def test_golden_values(p_value, sample, golden):
    assert p_value(sample, 0.1) == pytest.approx(golden, rel=1e-3)


@pytest.mark.parametrize("n", [1, 7, 60])
@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.8])
def test_p_values_are_the_formulas(n, alpha):
    rng = np.random.default_rng(n)
    for sample in (rng.random(n), rng.random(n) * alpha, rng.integers(0, 2, n).astype(float), np.zeros(n)):
        expected = reference.hoeffding_bentkus(list(sample), alpha)
        assert hoeffding_bentkus(sample, alpha) == pytest.approx(expected, rel=1e-9)
        assert betting(sample, alpha) == pytest.approx(reference.betting(list(sample), alpha), rel=1e-9)
        assert hoeffding_bentkus(sample, alpha) <= hoeffding(sample, alpha) + 1e-12


@pytest.mark.parametrize("p_value", BOUNDS.values(), ids=BOUNDS)
def test_a_mean_above_alpha_is_no_evidence(p_value):
    assert p_value(np.full(50, 0.3), 0.1) == 1.0
    assert 0 < p_value(np.full(50, 0.05), 0.1) <= 1.0


@pytest.mark.parametrize("p_value", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize("shape", ["binary", "beta"])
def test_a_p_value_at_the_border_is_small_as_rarely_as_it_says(p_value, shape):
    rng = np.random.default_rng(0)
    alpha, n, trials = 0.2, 80, 2000
    samples = rng.random((trials, n)) < alpha if shape == "binary" else rng.beta(1, 4, (trials, n))
    p_values = np.array([p_value(sample.astype(float), alpha) for sample in samples])
    for delta in (0.05, 0.1, 0.3):
        assert (p_values <= delta).mean() <= delta + 3 * math.sqrt(delta * (1 - delta) / trials)


def test_betting_proves_more_when_losses_vary_little():
    sample = np.random.default_rng(0).uniform(0.05, 0.07, 400)
    assert betting(sample, 0.1) < 1e-2 * hoeffding_bentkus(sample, 0.1)


def test_the_last_passing_index_is_returned():
    assert fixed_sequence([0.01, 0.1, 0.11, 0.0], 0.1) == 1
    assert fixed_sequence([0.2, 0.0], 0.1) is None
    assert fixed_sequence([0.0, 0.0], 0.1) == 1
    assert fixed_sequence([0.0, float("nan")], 0.1) == 0
    assert fixed_sequence([], 0.1) is None


def test_nothing_is_tested_after_the_first_failure():
    asked = iter([0.0, 0.5, 0.0])
    fixed_sequence(asked, 0.1)
    assert list(asked) == [0.0]


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize(("alpha", "delta"), [(0.1, 0.1), (0.02, 0.05), (0.9, 0.5), (0.5, 0.99)])
def test_the_fewest_texts_are_just_enough(name, alpha, delta):
    n = fewest_texts(alpha, delta, BOUNDS[name])
    assert BOUNDS[name](np.zeros(n), alpha) <= delta
    assert n == 1 or BOUNDS[name](np.zeros(n - 1), alpha) > delta


def test_the_fewest_texts_by_hand():
    assert fewest_texts(0.1, 0.1, hoeffding_bentkus) == math.ceil(math.log(0.1) / math.log(0.9))
    assert fewest_texts(0.1, 0.1, hoeffding) == math.ceil(math.log(10) / (2 * 0.1**2))
    with pytest.raises(ExitError, match=r"alpha must leave room for a proof, got 1e-12.*Choose a larger alpha"):
        fewest_texts(1e-12, 0.1, hoeffding)


def broken_promises(rule, n, trials=2000, alpha=0.1):
    """How often a rule ends above alpha: binary losses that grow with the threshold's index, true risk known."""
    rng = np.random.default_rng(3)
    risks = np.linspace(0.0, 0.3, 61)
    broken = 0
    for _ in range(trials):
        sample = rng.random(n)[:, None] < risks  # (n, 61), monotone in the index
        index = rule(sample.astype(float), alpha)
        broken += index is not None and risks[index] > alpha + 1e-12
    return broken / trials


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("n", but_slow([100, 500], 100))
def test_the_promise_is_kept_as_often_as_promised(name, n):
    def careful(sample, alpha):
        return fixed_sequence((BOUNDS[name](column, alpha) for column in sample.T), 0.1)

    def naive(sample, alpha):
        return int(np.flatnonzero(sample.mean(axis=0) <= alpha)[-1])

    assert broken_promises(careful, n) <= 0.1
    assert broken_promises(naive, n, trials=500) > 0.25
