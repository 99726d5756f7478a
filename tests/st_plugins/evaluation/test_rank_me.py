import math

import numpy as np
import pytest

from conftest import TEXTS
from st_plugins.errors import InputError
from st_plugins.evaluation import RankMeEvaluator
from st_plugins.evaluation.rank_me import effective_rank


def orthogonal(width, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))[0]


def test_two_singular_values_by_hand():
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(np.diag([3.0, 1.0])) == pytest.approx(math.exp(entropy), abs=1e-6)
    assert effective_rank(np.diag([3.0, 1.0])) == pytest.approx(1.7547653, abs=1e-6)


def test_orthonormal_rows_have_the_rank_of_their_number():
    assert effective_rank(orthogonal(32)) == pytest.approx(32.00025, abs=1e-4)


def test_one_direction_has_rank_one():
    rank_one = np.outer(np.arange(1.0, 41), np.arange(1.0, 33))
    assert effective_rank(rank_one) == pytest.approx(1.00005, abs=1e-5)


# Of independent normal numbers, from the notes on the paper: as many texts as coordinates lower the rank.
@pytest.mark.parametrize(("count", "expected"), [pytest.param(1000, 363.2, marks=pytest.mark.slow), (400, 314.4)])
def test_few_texts_lower_the_rank_of_normal_numbers(count, expected):
    assert effective_rank(np.random.default_rng(0).standard_normal((count, 384))) == pytest.approx(expected, abs=1.0)


@pytest.mark.slow
def test_many_texts_of_normal_numbers_have_nearly_full_rank():
    found = effective_rank(np.random.default_rng(0).standard_normal((25_600, 384)))
    assert found == pytest.approx(383.35, abs=0.05)


@pytest.mark.slow
def test_a_mean_that_all_share_lowers_the_rank():
    found = effective_rank(np.random.default_rng(0).standard_normal((1000, 384)) + 5)
    assert found == pytest.approx(173.9, abs=1.5)


def test_turning_and_lengthening_change_nothing():
    embeddings = np.random.default_rng(0).standard_normal((50, 12))
    expected = effective_rank(embeddings)
    assert effective_rank(1e-3 * embeddings) == pytest.approx(expected)
    assert effective_rank(orthogonal(50) @ embeddings @ orthogonal(12)) == pytest.approx(expected)


def test_zeros_have_no_rank():
    assert math.isnan(effective_rank(np.zeros((3, 4))))


def test_the_evaluator_measures_what_the_model_gives(plain):
    assert RankMeEvaluator(TEXTS)(plain) == {"rankme": pytest.approx(effective_rank(plain.encode(TEXTS)))}
    assert RankMeEvaluator(TEXTS).get_config_dict() == {"texts": 5}


def test_one_text_has_no_rank():
    with pytest.raises(InputError, match="texts must hold at least 2 texts, got 1"):
        RankMeEvaluator(["a"])
