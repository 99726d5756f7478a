import math
from itertools import pairwise

import pytest
import torch

import reference
from st_plugins.errors import ExitError
from st_plugins.exit_criteria import Gate, Saturation, criterion_from_dict, gate_features, masked_mean

LENGTHS = torch.tensor([4, 9, 1])


@pytest.fixture
def pooled():
    return torch.randn(5, 3, 8)  # five exits, three texts


def cosine(a, b):
    return reference.dot(reference.truncate(a, len(a)), reference.truncate(b, len(b)))


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_saturation_is_the_smallest_of_the_last_cosines(pooled, patience):
    for exits in range(1, 6):
        scores = Saturation(patience).score(pooled[:exits], LENGTHS)
        for row in range(3):
            path = pooled[:exits, row].tolist()
            cosines = [cosine(a, b) for a, b in pairwise(path)]
            expected = min(cosines[-patience:]) if len(cosines) >= patience else -math.inf
            assert scores[row].item() == pytest.approx(expected, abs=1e-6)


def test_saturation_by_hand():
    path = torch.tensor([[[1.0, 0.0]], [[2.0, 0.0]], [[0.0, 1.0]], [[0.0, 5.0]]])
    assert [Saturation().score(path[:n], LENGTHS[:1]).item() for n in (1, 2, 3, 4)] == [-math.inf, 1.0, 0.0, 1.0]
    assert [Saturation(2).score(path[:n], LENGTHS[:1]).item() for n in (2, 3, 4)] == [-math.inf, 0.0, 0.0]


def test_what_a_gate_looks_at(pooled):
    a, b, c = pooled[:3, 1].tolist()
    first, second, third = (gate_features(pooled[:n], LENGTHS)[1].tolist() for n in (1, 2, 3))
    assert first == pytest.approx([0, 0, 1, math.log(9), 1], abs=1e-6)
    assert second == pytest.approx([cosine(a, b), 0, cosine(a, b), math.log(9), 1], abs=1e-6)
    assert third == pytest.approx([cosine(b, c), cosine(a, b), cosine(a, c), math.log(9), 1], abs=1e-6)


def test_a_gate_uses_the_head_of_its_exit_and_stays_in_range(pooled):
    gate = Gate((1, 2, 4), ((0, 0, 0, 0.1, 0), (0, 0, 0, 0, -3.0), (0, 0, 0, 0, 7.0)))
    assert gate.score(pooled[:1], LENGTHS).tolist() == pytest.approx([0.1 * math.log(n) for n in (4, 9, 1)], abs=1e-6)
    assert gate.score(pooled[:2], LENGTHS).tolist() == [-1, -1, -1]
    assert gate.score(pooled[:3], LENGTHS).tolist() == [1, 1, 1]


@pytest.mark.parametrize("criterion", [Saturation(2), Gate((1, 2, 3, 4, 5), tuple([(0.3, 0.2, 0.1, 0.05, 0.1)] * 5))])
def test_a_score_knows_its_own_text_only(pooled, criterion):
    together = criterion.score(pooled, LENGTHS)
    alone = torch.cat([criterion.score(pooled[:, row : row + 1], LENGTHS[row : row + 1]) for row in range(3)])
    assert torch.equal(together, alone)
    order = [2, 0, 1]
    assert torch.equal(criterion.score(pooled[:, order], LENGTHS[order]), together[order])


@pytest.mark.parametrize("criterion", [Saturation(), Saturation(3), Gate((2,), ((1.0, 2.0, 3.0, 4.0, 0.1),))])
def test_read_back_as_written(criterion):
    assert criterion_from_dict(criterion.as_dict()) == criterion


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"type": "magic"}, r"must be 'saturation' or 'gate', got 'magic'. A newer release"),
        ({}, "damaged: 'type'. Calibrate it again"),
        (None, "criterion of a saved policy is damaged"),
        ({"type": "saturation"}, "damaged: 'patience'"),
        ({"type": "saturation", "patience": 0}, "patience must be a positive integer, got 0"),
        ({"type": "gate", "layers": [1], "weights": [["a"] * 5]}, "damaged: could not convert"),
        ({"type": "gate", "layers": [1], "weights": [[1.0]]}, r"must have 5 weights for each of its layers \[1\]"),
    ],
)
def test_a_damaged_criterion_is_refused(content, message):
    with pytest.raises(ExitError, match=message):
        criterion_from_dict(content)


@pytest.mark.parametrize("patience", [0, -1, 1.0, True, None])
def test_patience_is_a_positive_integer(patience):
    with pytest.raises(ExitError, match="patience must be a positive integer"):
        Saturation(patience)


def test_weights_of_a_gate_are_finite_and_there():
    with pytest.raises(ExitError, match="must be finite numbers"):
        Gate((1,), ((0, 0, 0, 0, math.nan),))
    with pytest.raises(ExitError, match=r"5 weights for each of its layers \[1, 2\], got \[5\]"):
        Gate((1, 2), ((0, 0, 0, 0, 0),))
    with pytest.raises(ExitError, match="must have 5 weights"):
        Gate((), ())


def test_exits_that_a_criterion_cannot_serve():
    Saturation().check_exits((1, 2, 4))
    with pytest.raises(ExitError, match=r"Saturation\(patience=1\) needs at least 3 exits to compare, got .*\[3, 6\]"):
        Saturation().check_exits((3, 6))
    with pytest.raises(ExitError, match="needs at least 4 exits"):
        Saturation(2).check_exits((1, 2, 3))
    gate = Gate((1, 3), ((0, 0, 0, 0, 0),) * 2)
    gate.check_exits((1, 3, 4))
    with pytest.raises(ExitError, match=r"trained for exits at layers \[1, 3\], got \[1, 2\]"):
        gate.check_exits((1, 2, 4))


def test_the_mean_counts_tokens_only():
    states = torch.randn(2, 4, 3)
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]])
    expected = torch.stack([states[0, :2].mean(0), states[1, 2:].mean(0)])
    assert torch.allclose(masked_mean(states, mask), expected, atol=1e-6)
    assert masked_mean(states, torch.zeros_like(mask)).abs().max() == 0
    assert masked_mean(states.bfloat16(), mask).dtype == torch.float32
    assert masked_mean(states.double(), mask).dtype == torch.float64
