import math

import pytest
import torch
from sentence_transformers.sentence_transformer import losses as host

import reference
from loss_cases import ANCHORS, POSITIVES, gradients
from st_plugins.errors import LossError
from st_plugins.losses import ElasticLoss
from st_plugins.losses.given_negatives import GivenNegativesLoss

NEAR = ["a dog sat", "the cat", "a red mat", "it is fast", "blue tree", "a cat"]
FAR = ["it was in it", "slow", "and", "the mat", "a cat ran", "it is slow"]


def features(model, rows=slice(None)):
    return [model.preprocess(column[rows]) for column in (ANCHORS, POSITIVES, NEAR, FAR)]


def on_circle(*degrees):
    return torch.tensor([[math.cos(math.radians(angle)), math.sin(math.radians(angle))] for angle in degrees])


@pytest.mark.parametrize("scale", [1.0, 20.0])
@pytest.mark.parametrize("negatives", [1, 2, 5])
def test_the_value_is_that_of_the_formula(plain, scale, negatives):
    columns = [torch.randn(4, 8).double() for _ in range(2 + negatives)]
    expected = reference.given_negatives(columns[0].tolist(), [column.tolist() for column in columns[1:]], scale)
    loss = GivenNegativesLoss(plain, scale=scale).compute_loss_from_embeddings(columns)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_by_hand_with_angles(plain):
    # Cosines 1 and 0 in the first row, 0 and 1 in the second.
    columns = [on_circle(0, 90), on_circle(0, 0), on_circle(90, 90)]
    loss = GivenNegativesLoss(plain, scale=1.0).compute_loss_from_embeddings(columns)
    assert loss.item() == pytest.approx((math.log(1 + math.exp(-1)) + math.log(1 + math.e)) / 2)


def test_equal_cosines_give_the_logarithm_of_the_candidates(plain):
    columns = [on_circle(10, 50)] + [on_circle(40, 80)] * 4
    assert GivenNegativesLoss(plain).compute_loss_from_embeddings(columns).item() == pytest.approx(math.log(4))


def test_the_length_of_vectors_and_the_order_of_negatives_do_not_matter(plain):
    anchor, positive, *negatives = [torch.randn(4, 8) for _ in range(5)]
    loss = GivenNegativesLoss(plain)
    value = loss.compute_loss_from_embeddings([anchor, positive, *negatives])
    other = loss.compute_loss_from_embeddings([3 * anchor, 0.5 * positive, *reversed(negatives)])
    assert torch.allclose(value, other)


def test_other_rows_are_no_negatives(plain):
    """The host's loss on one row, row by row; on the batch the host's is another one."""
    plain.eval()
    value, together = gradients(GivenNegativesLoss(plain), features(plain))
    in_batch = host.MultipleNegativesRankingLoss(plain)
    one_by_one = [gradients(in_batch, features(plain, slice(row, row + 1))) for row in range(len(ANCHORS))]
    assert value == pytest.approx(sum(loss for loss, _ in one_by_one) / len(ANCHORS), rel=1e-5)
    for name, gradient in together.items():
        expected = torch.stack([single[name] for _, single in one_by_one]).mean(dim=0)
        assert torch.allclose(gradient, expected, atol=1e-5), name
    assert abs(in_batch(features(plain), None).item() - value) > 0.1


def test_a_row_that_is_the_positive_of_another_pushes_nothing_away(plain):
    """Two rows of one class that are each other's positives: at the optimum nothing is left to learn."""
    columns = [on_circle(0, 0), on_circle(0, 0), on_circle(180, 180)]
    assert GivenNegativesLoss(plain).compute_loss_from_embeddings(columns).item() < 1e-12
    in_batch = host.MultipleNegativesRankingLoss(plain).compute_loss_from_embeddings(columns, None)
    assert in_batch.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_extreme_scales_stay_finite_in_every_precision(plain, dtype):
    columns = [torch.randn(3, 8, dtype=dtype, requires_grad=True) for _ in range(3)]
    loss = GivenNegativesLoss(plain, scale=1000.0).compute_loss_from_embeddings(columns)
    loss.backward()
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(column.grad).all() for column in columns)


def test_half_precision_does_not_round_the_cosines(plain):
    columns = [torch.randn(16, 8).bfloat16() for _ in range(4)]
    half = GivenNegativesLoss(plain).compute_loss_from_embeddings(columns)
    exact = GivenNegativesLoss(plain).compute_loss_from_embeddings([column.double() for column in columns])
    assert half.item() == pytest.approx(exact.item(), rel=1e-5)


def test_a_vector_of_zeros_stays_finite(plain):
    columns = [torch.randn(3, 8) for _ in range(3)]
    columns[2][0] = 0
    assert torch.isfinite(GivenNegativesLoss(plain).compute_loss_from_embeddings(columns))


def test_a_step_lowers_it(plain):
    loss = GivenNegativesLoss(plain)
    optimizer = torch.optim.SGD(plain.parameters(), lr=1e-3)
    before = loss(features(plain))
    before.backward()
    optimizer.step()
    assert loss(features(plain)) < before


def test_it_trains_every_size_inside_the_elastic_loss(model):
    loss = ElasticLoss(model, GivenNegativesLoss(model), sizes=[(2, 8)])
    _, found = gradients(loss, features(model))
    assert any("layer.0." in name and gradient.abs().max() > 0 for name, gradient in found.items())


def test_the_model_card_can_say_how_it_was_trained(plain):
    assert GivenNegativesLoss(plain, scale=50.0).get_config_dict() == {"scale": 50.0}
    assert "2405.17428" in GivenNegativesLoss.citation


@pytest.mark.parametrize("scale", [0, -1.0, float("nan")])
def test_a_scale_that_is_not_positive_is_refused(plain, scale):
    with pytest.raises(LossError, match=r"scale must be positive, got .* It is 1 / temperature"):
        GivenNegativesLoss(plain, scale=scale)


def test_pairs_without_negatives_are_refused(plain):
    message = r"must have columns \(anchor, positive, negative, ...\), got 2. Mine negatives with"
    with pytest.raises(LossError, match=message):
        GivenNegativesLoss(plain).compute_loss_from_embeddings([torch.ones(2, 4)] * 2)
