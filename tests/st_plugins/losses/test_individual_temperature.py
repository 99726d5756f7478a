import math
from itertools import pairwise

import pytest
import torch

import reference
from loss_cases import batch
from st_plugins.errors import LossError
from st_plugins.losses import IndividualTemperatureLoss
from st_plugins.losses.individual_temperature import log_mean_exp

ROWS = torch.tensor([4, 0, 7, 2, 5])


def columns(count=2, rows=5):
    return [torch.randn(rows, 6, dtype=torch.float64, requires_grad=True) for _ in range(count)]


def built(model, **options):
    """In double precision, so that nothing but the formula is compared."""
    loss = IndividualTemperatureLoss(model, num_examples=9, **options).double()
    loss.temperatures.fill_(loss.initial)
    return loss


@pytest.mark.parametrize("negatives", [0, 2])
def test_three_batches_are_those_of_the_formula(plain, negatives):
    loss = built(plain, rho=0.4, average_rate=0.8, momentum_rate=0.7, temperature_rate=0.05)
    temperature, average, momentum = [0.1] * 9, [None] * 9, [0.0] * 9
    for rows in ([4, 0, 7, 2, 5], [1, 4, 2, 8, 0], [4, 5, 6, 7, 8]):
        embeddings = columns(2 + negatives)
        candidates = [row for column in embeddings[1:] for row in column.tolist()]
        value, learned = reference.individual_temperature(
            embeddings[0].tolist(), candidates, [temperature[r] for r in rows], [average[r] for r in rows], 0.4, 0.8
        )
        assert loss.compute_loss(embeddings, torch.tensor(rows)).item() == pytest.approx(value, rel=1e-12)
        for row, (u, slope) in zip(rows, learned, strict=True):
            average[row] = u
            momentum[row] = 0.3 * momentum[row] + 0.7 * min(5.0, max(-5.0, slope))
            temperature[row] = min(0.7, max(0.05, temperature[row] - 0.05 * momentum[row]))
    assert loss.temperatures.tolist() == pytest.approx(temperature, rel=1e-9)
    visited = [row for row in range(9) if average[row] is not None]
    assert visited == [row for row in range(9) if loss.log_averages[row] > -math.inf]
    for row in visited:
        assert loss.log_averages[row].exp().item() == pytest.approx(average[row], rel=1e-9)


def test_by_hand(plain):
    # Cosines 1 and 0 in the first row, 0 and 1 in the second: h = -1 for both.
    embeddings = [torch.eye(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)]
    loss = built(plain, rho=0.0, initial=0.5, temperature_rate=0.0)
    assert loss.compute_loss(embeddings, torch.tensor([0, 1])).item() == pytest.approx(-1.0)


def test_without_memory_the_gradient_is_that_of_info_nce_without_the_positive(plain):
    embeddings = columns()
    loss = built(plain, rho=0.0, initial=0.2, average_rate=1.0, temperature_rate=0.0)
    loss.compute_loss(embeddings, ROWS).backward()
    found = [column.grad.clone() for column in embeddings]
    for column in embeddings:
        column.grad = None
    anchors, positives = (torch.nn.functional.normalize(column, dim=-1) for column in embeddings)
    scores = anchors @ positives.T
    leads = (scores - scores.diagonal()[:, None])[~torch.eye(5, dtype=torch.bool)].view(5, 4)
    (0.2 * torch.logsumexp(leads / 0.2, dim=1) - 0.2 * math.log(4)).mean().backward()
    for one, column in zip(found, embeddings, strict=True):
        assert torch.allclose(one, column.grad, atol=1e-14, rtol=1e-12)


def test_the_slope_is_rho_minus_how_uneven_the_negatives_weigh(plain):
    embeddings = [column.detach() for column in columns()]
    loss = built(plain, rho=0.4, initial=0.3, average_rate=1.0, momentum_rate=1.0, temperature_rate=0.0)
    with torch.enable_grad():
        loss.compute_loss(embeddings, ROWS)
    anchors, positives = (torch.nn.functional.normalize(column, dim=-1) for column in embeddings)
    scores = anchors @ positives.T
    for place, row in enumerate(ROWS.tolist()):
        weights = reference.softmax([float(s) / 0.3 for j, s in enumerate(scores[place]) if j != place])
        expected = 0.4 - reference.kl(weights, [0.25] * 4)
        assert loss.momenta[row].item() == pytest.approx(expected, abs=1e-12)


def test_the_slope_rises_with_the_temperature_and_stays_between_rho_minus_the_logarithm_of_the_negatives_and_rho(plain):
    """The divergence from uniform weights falls from log 4, at temperature 0, to 0."""
    embeddings = [column.detach() for column in columns()]
    slopes = []
    for initial in (1e-3, 0.05, 0.1, 0.3, 1.0, 3.0, 1e3):
        loss = built(
            plain, rho=0.4, initial=initial, average_rate=1.0, momentum_rate=1.0, temperature_rate=0.0, lowest=1e-3,
            highest=1e3,
        )  # fmt: skip
        loss.compute_loss(embeddings, ROWS)
        slopes.append(loss.momenta[ROWS])
    assert all((after > before).all() for before, after in pairwise(slopes))
    assert torch.allclose(slopes[0], torch.full((5,), 0.4 - math.log(4)).double(), atol=1e-3)
    assert torch.allclose(slopes[-1], torch.full((5,), 0.4).double(), atol=1e-3)


def test_temperatures_settle_where_the_negatives_weigh_unevenly_by_rho(plain):
    embeddings = [column.detach() for column in columns(rows=5)]
    loss = built(plain, rho=0.3, average_rate=1.0, momentum_rate=1.0, temperature_rate=0.03, lowest=0.01, highest=9.0)
    for _ in range(500):
        loss.compute_loss(embeddings, ROWS)
    anchors, positives = (torch.nn.functional.normalize(column, dim=-1) for column in embeddings)
    for place, row in enumerate(ROWS.tolist()):
        scores = [float(s) for j, s in enumerate(anchors[place] @ positives.T) if j != place]
        weights = reference.softmax([s / loss.temperatures[row].item() for s in scores])
        assert reference.kl(weights, [0.25] * 4) == pytest.approx(0.3, abs=1e-2)


def test_a_rho_above_the_logarithm_of_the_negatives_is_refused_because_every_temperature_falls(plain):
    loss = built(plain, rho=1.39, temperature_rate=0.1)  # log 4 = 1.386
    with pytest.raises(LossError, match=r"rho must be below log\(negatives\), 1.39 for the 4 of this batch, got 1.39"):
        loss.compute_loss(columns(), ROWS)
    loss._has_seen_a_batch = True
    for _ in range(200):
        loss.compute_loss([column.detach() for column in columns()], ROWS)
    assert loss.temperatures[ROWS].tolist() == [0.05] * 5
    built(plain, rho=1.38).compute_loss(columns(), ROWS)
    built(plain, rho=9.0, temperature_rate=0.0).compute_loss(columns(), ROWS)  # nothing falls


def test_only_the_visited_examples_change(plain):
    loss = built(plain)
    loss.compute_loss(columns(), ROWS)
    visited = loss.log_averages > -math.inf
    assert visited.nonzero().flatten().tolist() == sorted(ROWS.tolist())
    assert (loss.temperatures[~visited] == 0.1).all()
    assert (loss.temperatures[visited] != 0.1).all()
    assert (loss.momenta[~visited] == 0).all()


def test_an_example_among_many_like_it_takes_a_higher_temperature(plain):
    def unit(degrees):
        return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]

    # Seven of a kind, within seven degrees of one another, and one for itself.
    texts = torch.tensor([unit(angle) for angle in (0, 1, 2, 3, 4, 5, 6, 180)], dtype=torch.float64)
    loss = built(plain, rho=0.05, highest=3.0)
    for _ in range(400):
        loss.compute_loss([texts, texts], torch.arange(8))
    assert loss.temperatures[:7].min() > 2 * loss.temperatures[7]


def test_a_short_last_batch_does_not_stop_a_training(plain):
    loss = built(plain)
    loss.calculate_loss([[column] for column in columns()], ROWS)
    before = loss.temperatures.clone()
    alone = columns(rows=1)
    value = loss.calculate_loss([[column] for column in alone], ROWS[:1])
    value.backward()
    assert value == 0
    assert alone[0].grad.abs().sum() == 0
    assert torch.equal(loss.temperatures, before)
    assert torch.isfinite(loss.calculate_loss([[column] for column in columns(rows=2)], ROWS[:2]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_lowest_temperatures_stay_finite_in_every_precision(plain, dtype):
    loss = IndividualTemperatureLoss(plain, 9, rho=0.3, lowest=0.001, initial=0.001)
    for _ in range(3):
        embeddings = [torch.randn(5, 6, dtype=dtype, requires_grad=True) for _ in range(2)]
        value = loss.calculate_loss([[column] for column in embeddings], ROWS)
        value.backward()
        assert torch.isfinite(value)
        assert all(torch.isfinite(column.grad).all() for column in embeddings)
    assert torch.isfinite(loss.log_averages[ROWS]).all()


def test_a_step_lowers_the_objective(plain):
    plain.eval()
    loss = IndividualTemperatureLoss(plain, 9, temperature_rate=0.0, average_rate=1.0)
    optimizer = torch.optim.SGD(plain.parameters(), lr=1e-3)
    before = loss(batch(plain), torch.arange(6))
    before.backward()
    optimizer.step()
    assert loss(batch(plain), torch.arange(6)) < before


def test_a_mean_of_exponentials_does_not_overflow():
    assert log_mean_exp(torch.tensor([[1.0, 3.0]])).item() == pytest.approx(math.log((math.e + math.e**3) / 2))
    assert log_mean_exp(torch.tensor([5000.0, 5000.0])).item() == 5000


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "integers of shape .5,., got none. Add them with"),
        (torch.arange(4), r"got torch.int64 of shape \(4,\)"),
        (torch.rand(5), "got torch.float32"),
        (torch.tensor([0, 1, 2, 3, 9]), "from 0 to 8, got 5 different ones from 0 to 9 for 5 rows. Set num_examples"),
        (torch.tensor([0, 1, 2, 3, -1]), "got 5 different ones from -1 to 3"),
        (torch.tensor([0, 1, 1, 0, 1]), "got 2 different ones from 0 to 1 for 5 rows"),
    ],
)
def test_labels_that_number_no_rows_are_refused(plain, labels, message):
    with pytest.raises(LossError, match=message):
        built(plain).compute_loss(columns(), labels)


def test_a_first_batch_of_one_is_refused(plain):
    with pytest.raises(LossError, match="more than one text per batch to compare with, got a batch of one"):
        built(plain)([plain.preprocess([text]) for text in ("the cat", "a dog")], ROWS[:1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_examples": 0}, "num_examples must be the number of rows of the dataset, got 0"),
        ({"num_examples": 2.5}, "num_examples must be the number of rows of the dataset, got 2.5"),
        ({"lowest": 0.0}, "0 < lowest <= initial <= highest, got 0.0, 0.1 and 0.7"),
        ({"highest": 0.08}, "got 0.05, 0.1 and 0.08"),
        ({"average_rate": 0.0}, r"average_rate must be in \(0, 1\], got 0.0"),
        ({"momentum_rate": 1.5}, r"momentum_rate must be in \(0, 1\], got 1.5"),
        ({"rho": -0.1}, "rho must be a number >= 0, got -0.1"),
        ({"rho": math.nan}, "rho must be a number >= 0, got nan"),
        ({"temperature_rate": -1.0}, "temperature_rate must be a number >= 0, got -1.0"),
        ({"initial": 0.0}, "got 0.05, 0.0 and 0.7"),
    ],
)
def test_an_option_out_of_range_is_refused(plain, options, message):
    with pytest.raises(LossError, match=message):
        IndividualTemperatureLoss(plain, **{"num_examples": 9, **options})
