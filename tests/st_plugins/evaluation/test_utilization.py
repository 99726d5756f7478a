import math

import numpy as np
import pytest

from conftest import TEXTS
from st_plugins.errors import InputError
from st_plugins.evaluation import UtilizationEvaluator
from st_plugins.evaluation.audit import unit_rows
from st_plugins.evaluation.utilization import nearest_distance

RANDOM = np.random.default_rng(0)


def test_it_is_the_mean_of_the_least_distances():
    texts, training = RANDOM.standard_normal((9, 4)), RANDOM.standard_normal((6, 4))
    least = [min(math.dist(x, t) for t in unit_rows(training)) for x in unit_rows(texts)]
    assert nearest_distance(texts, training) == pytest.approx(sum(least) / 9)


@pytest.mark.parametrize(("angle", "expected"), [(0, 0), (60, 1), (90, math.sqrt(2)), (180, 2)])
def test_known_distances(angle, expected):
    turned = [[math.cos(math.radians(angle)), math.sin(math.radians(angle))]]
    assert nearest_distance(np.array([[5.0, 0.0]]), np.array(turned)) == pytest.approx(expected)


def test_texts_of_the_training_have_distance_zero():
    training = RANDOM.standard_normal((50, 8))
    assert nearest_distance(3 * training[:10], training) < 1e-15
    near = training[:10] + 1e-9 * RANDOM.standard_normal((10, 8))
    assert 1e-10 < nearest_distance(near, training) < 1e-8, "and small distances keep their digits"


def test_more_texts_than_are_compared_at_once():
    texts, training = RANDOM.standard_normal((2500, 3)), RANDOM.standard_normal((7, 3))
    parts = [nearest_distance(texts[i : i + 500], training) for i in range(0, 2500, 500)]
    assert nearest_distance(texts, training) == pytest.approx(np.mean(parts))


def test_more_training_texts_use_more_of_the_space(plain):
    few, many = (UtilizationEvaluator(TEXTS[:count], TEXTS[4:])(plain)["utilization"] for count in (1, 4))
    assert many < few
    assert UtilizationEvaluator(TEXTS, TEXTS)(plain)["utilization"] < 1e-5
    assert UtilizationEvaluator(TEXTS, TEXTS[:1]).get_config_dict() == {"train_texts": 5, "texts": 1}


def test_no_texts_are_refused():
    with pytest.raises(InputError, match="train_texts must hold at least 1 texts, got 0"):
        UtilizationEvaluator([], ["a"])
    with pytest.raises(InputError, match="texts must be a sequence of texts, got str"):
        UtilizationEvaluator(["a"], "b")
