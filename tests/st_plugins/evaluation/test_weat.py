import math

import numpy as np
import pytest

import reference
from st_plugins.errors import InputError
from st_plugins.evaluation import WeatEvaluator
from st_plugins.evaluation.weat import association

RANDOM = np.random.default_rng(0)
NORTH, EAST = np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])


@pytest.mark.parametrize("sizes", [(3, 3, 2, 2), (4, 2, 3, 1), (2, 5, 1, 4)])
def test_it_is_the_formula_number_by_number(sizes):
    sets = [RANDOM.standard_normal((size, 6)) for size in sizes]
    assert association(*sets) == pytest.approx(reference.association(*(rows.tolist() for rows in sets)))


def test_the_largest_effect_with_n_minus_one_in_the_deviation():
    """Eight a side, all of X at A and all of Y at B: 2 sqrt(15/16), with n in its place 2."""
    effect, p_value = association(EAST.repeat(8, 0), NORTH.repeat(8, 0), EAST, NORTH)
    assert effect == pytest.approx(2 * math.sqrt(15 / 16))
    assert effect == pytest.approx(1.936, abs=1e-3)
    assert effect * math.sqrt(16 / 15) == pytest.approx(2)
    assert p_value == 1 / math.comb(16, 8)


def test_swapping_turns_the_sign():
    x, y, a, b = (RANDOM.standard_normal((5, 6)) for _ in range(4))
    effect, p_value = association(x, y, a, b)
    assert association(y, x, a, b)[0] == pytest.approx(-effect)
    assert association(x, y, b, a)[0] == pytest.approx(-effect)
    assert association(y, x, b, a) == pytest.approx((effect, p_value))


def test_lengths_and_turns_change_nothing():
    sets = [RANDOM.standard_normal((4, 6)) for _ in range(4)]
    turn = np.linalg.qr(RANDOM.standard_normal((6, 6)))[0]
    assert association(*(7 * rows @ turn for rows in sets)) == pytest.approx(association(*sets))


def test_equal_associations_are_no_effect():
    assert association(EAST.repeat(3, 0), EAST.repeat(3, 0), EAST, NORTH) == (0.0, 1.0)


def test_ties_count_against_the_finding():
    """Two of each side are alike: of 6 partitions 4 have the sum of the given one, and one more."""
    mixed = np.concatenate([EAST, NORTH])
    assert association(mixed, mixed, EAST, NORTH) == (0.0, 5 / 6)


def test_random_partitions_come_near_to_all_of_them():
    sets = [RANDOM.standard_normal((7, 6)) for _ in range(4)]
    sets[0] += 0.3 * sets[2].mean(axis=0)
    effect, exact = association(*sets)
    assert 0.01 < exact < 0.99
    found = association(*sets, max_partitions=3000)  # of 3,432
    assert found[0] == effect
    assert found[1] == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 3000))
    assert found[1] != exact
    assert association(*sets, max_partitions=3000) == found


def test_random_partitions_never_say_zero():
    _, p_value = association(EAST.repeat(40, 0), NORTH.repeat(40, 0), EAST, NORTH, max_partitions=20_001)
    assert p_value == 1 / 20_002


def test_p_values_of_nothing_are_uniform():
    """Of random vectors no more than a share alpha falls below alpha."""
    random = np.random.default_rng(1)
    values = [association(*(random.standard_normal((4, 3)) for _ in range(4)))[1] for _ in range(400)]
    for alpha in (0.05, 0.2, 0.5):
        share = np.mean([value <= alpha for value in values])
        assert share <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / 400)


def test_flowers_are_pleasant(minilm):
    flowers, insects = ["rose", "tulip", "lily", "daisy", "orchid"], ["wasp", "flea", "roach", "maggot", "tick"]
    pleasant, unpleasant = ["lovely", "peace", "joy", "gift"], ["ugly", "filth", "disease", "poison"]
    evaluator = WeatEvaluator((flowers, insects), (pleasant, unpleasant), name="flowers")
    metrics = evaluator(minilm)
    assert metrics["flowers_effect_size"] > 1
    assert metrics["flowers_p_value"] < 0.05
    swapped = WeatEvaluator((insects, flowers), (pleasant, unpleasant))(minilm)
    assert swapped["effect_size"] == pytest.approx(-metrics["flowers_effect_size"])
    assert swapped["absolute_effect_size"] == pytest.approx(metrics["flowers_absolute_effect_size"])


def test_each_text_in_each_template_is_a_text(plain):
    templates = ["the {}", "it is {}"]
    evaluator = WeatEvaluator((["cat", "dog"], ["mat", "tree"]), (["red"], ["blue"]), templates=templates)
    sets = [plain.encode([template.format(word) for word in words for template in templates])
            for words in (["cat", "dog"], ["mat", "tree"], ["red"], ["blue"])]  # fmt: skip
    effect, p_value = association(*sets)
    expected = {"absolute_effect_size": abs(effect), "effect_size": effect, "p_value": p_value}
    assert evaluator(plain) == pytest.approx(expected)
    assert evaluator.get_config_dict() == {"texts": [2, 2, 1, 1], "templates": 2, "ddof": 1}


def test_sets_that_cannot_be_tested_are_refused():
    good = (["a", "b"], ["c", "d"])
    with pytest.raises(InputError, match="targets must be two sets of texts, got 3"):
        WeatEvaluator((*good, ["e"]), good)
    with pytest.raises(InputError, match="attributes must be two sets of texts, got 2"):
        WeatEvaluator(good, "ab")
    with pytest.raises(InputError, match=r"targets\[1\] must hold at least 2 texts, got 1"):
        WeatEvaluator((["a", "b"], ["c"]), good)
    with pytest.raises(InputError, match=r"attributes\[0\] must hold at least 1 texts, got 0"):
        WeatEvaluator(good, ([], ["c"]))
    for template in ("no place", "{} and {}"):
        with pytest.raises(InputError, match="one place for a text, written {}, got"):
            WeatEvaluator(good, good, templates=[template])
