import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import reference
from st_plugins.errors import InputError, SizeError
from st_plugins.evaluation import DirectBiasEvaluator, indirect_bias
from st_plugins.evaluation.direct_bias import mean_part
from st_plugins.modules import DebiasProjection

RANDOM = np.random.default_rng(0)
EAST = np.array([[1.0, 0.0, 0.0]])
PAIRS = [("the cat", "the dog"), ("a cat sat", "a dog sat")]


@pytest.mark.parametrize(("strictness", "expected"), [(1, (0.6 + 0.8 + 0) / 3), (2, (0.36 + 0.64) / 3), (0, 2 / 3)])
def test_direct_bias_by_hand(strictness, expected):
    """Cosines of .6, -.8 and 0 with the direction."""
    texts = np.array([[3.0, 4.0, 0.0], [-8.0, 0.0, 6.0], [0.0, 0.0, 2.0]])
    assert mean_part(texts, EAST, strictness=strictness) == pytest.approx(expected)


@pytest.mark.parametrize(("w", "v", "expected"), [
    ([0.6, 0.8, 0.0], [0.6, 0.0, 0.8], 1.0),  # .36, and nothing without the direction
    ([0.6, 0.8, 0.0], [0.8, 0.6, 0.0], -1 / 24),  # .96, and 1 without it
    ([0.0, 1.0, 0.0], [3.0, 4.0, 0.0], -1 / 4),  # .8, and 1 without it
    ([0.0, 2.0, 1.0], [0.0, 1.0, 2.0], 0.0),  # neither has a part in it
    ([1.0, 0.0, 0.0], [3.0, 4.0, 0.0], 1.0),  # one has nothing else
    ([0.6, 0.8, 0.0], [0.8, -0.6, 0.0], np.nan),  # at right angles
])  # fmt: skip
def test_indirect_bias_by_hand(w, v, expected):
    assert indirect_bias(np.array([w]), np.array([v]), EAST) == pytest.approx(np.array([expected]), nan_ok=True)


def test_they_are_the_formulas_number_by_number():
    texts, others = RANDOM.standard_normal((7, 6)), RANDOM.standard_normal((7, 6))
    direction = RANDOM.standard_normal(6)
    unit = direction[None] / np.linalg.norm(direction)
    expected = reference.direct_bias(texts.tolist(), direction.tolist(), 1.7)
    assert mean_part(texts, unit, strictness=1.7) == pytest.approx(expected)
    pairs = zip(texts.tolist(), others.tolist(), strict=True)
    expected = [reference.indirect_bias(w, v, direction.tolist()) for w, v in pairs]
    assert indirect_bias(texts, others, unit) == pytest.approx(np.array(expected))


def test_signs_lengths_and_turns_change_nothing():
    texts, others = RANDOM.standard_normal((5, 6)), RANDOM.standard_normal((5, 6))
    directions = np.linalg.qr(RANDOM.standard_normal((6, 2)))[0].T
    turn = np.linalg.qr(RANDOM.standard_normal((6, 6)))[0]
    inside = np.linalg.qr(RANDOM.standard_normal((2, 2)))[0]  # another basis of the same plane
    for changed in (-directions, inside @ directions):
        assert mean_part(3 * texts, changed) == pytest.approx(mean_part(texts, directions))
        assert indirect_bias(others, 3 * texts, changed) == pytest.approx(indirect_bias(texts, others, directions))
    assert mean_part(texts @ turn, directions @ turn) == pytest.approx(mean_part(texts, directions))
    turned = indirect_bias(texts @ turn, others @ turn, directions @ turn)
    assert turned == pytest.approx(indirect_bias(texts, others, directions))


def test_neutralizing_takes_out_both():
    """The measures and the module that they are about."""
    sets = torch.from_numpy(RANDOM.standard_normal((4, 2, 6)))
    debias = DebiasProjection.from_sets(sets, 2)
    directions = debias.directions.numpy()
    texts, others = RANDOM.standard_normal((5, 6)), RANDOM.standard_normal((5, 6))
    neutral, other = (debias({"sentence_embedding": torch.from_numpy(x)})["sentence_embedding"].numpy()
                      for x in (texts, others))  # fmt: skip
    assert mean_part(texts, directions) > 0.1
    assert mean_part(neutral, directions) == pytest.approx(0, abs=1e-12)
    assert mean_part(neutral, directions, strictness=0) == 0
    assert indirect_bias(neutral, other, directions) == pytest.approx(np.zeros(5), abs=1e-12)
    cosines = (texts * others).sum(1) / np.linalg.norm(texts, axis=1) / np.linalg.norm(others, axis=1)
    left = cosines * (1 - indirect_bias(texts, others, directions))
    assert (neutral * other).sum(1) == pytest.approx(left)


def test_the_evaluator_measures_along_the_directions_of_its_sets(plain):
    texts = ["the tree", "it ran fast"]
    sets = [torch.from_numpy(plain.encode(list(pair)).astype(float)) for pair in PAIRS]
    directions = DebiasProjection.from_sets(sets).directions.numpy()
    evaluator = DirectBiasEvaluator(texts, PAIRS, strictness=2, name="pets")
    expected = mean_part(plain.encode(texts), directions, strictness=2)
    assert evaluator(plain) == {"pets_direct_bias": pytest.approx(expected)}
    assert evaluator.primary_metric == "pets_direct_bias"
    assert not evaluator.greater_is_better
    assert evaluator.get_config_dict() == {"texts": 2, "sets": 2, "num_directions": 1, "strictness": 2}


def test_behind_a_projection_it_looks_along_what_the_sets_still_differ_in(plain):
    def embedded(model, texts):
        return torch.from_numpy(model.encode(list(texts)).astype(float))

    taken = DebiasProjection.from_sets([embedded(plain, pair) for pair in PAIRS])
    neutral, texts = SentenceTransformer(modules=[*plain, taken], device="cpu"), ["the tree", "it ran fast"]
    left = DebiasProjection.from_sets([embedded(neutral, pair) for pair in PAIRS]).directions
    assert (left @ taken.directions.double().T).abs().max() < 1e-5
    assert mean_part(neutral.encode(texts), taken.directions.numpy()) == pytest.approx(0, abs=1e-6)
    found = DirectBiasEvaluator(texts, PAIRS)(neutral)["direct_bias"]
    assert found == pytest.approx(mean_part(neutral.encode(texts), left.numpy()), rel=1e-5)
    assert found > 0.01


def test_what_cannot_be_measured_is_refused(plain):
    with pytest.raises(InputError, match="texts must hold at least 1 texts, got 0"):
        DirectBiasEvaluator([], PAIRS)
    with pytest.raises(InputError, match=r"sets\[1\] must hold at least 2 texts, got 1"):
        DirectBiasEvaluator(["a"], [PAIRS[0], ["a"]])
    with pytest.raises(InputError, match="sets must hold at least one set of texts, got none"):
        DirectBiasEvaluator(["a"], [])
    with pytest.raises(InputError, match="strictness must be a number >= 0, got -1"):
        DirectBiasEvaluator(["a"], PAIRS, strictness=-1)
    with pytest.raises(SizeError, match="must differ in at least num_directions=3 directions"):
        DirectBiasEvaluator(["a"], PAIRS, num_directions=3)(plain)
