import pytest
import torch
from sentence_transformers.sentence_transformer import losses as host
from sentence_transformers.util import dot_score

import reference
from loss_cases import Nothing, batch, embeddings_by_layer, gradients
from st_plugins.errors import LossError, SizeError
from st_plugins.losses import StarbucksLoss
from st_plugins.losses.layers import starbucks_menu

SIZES = [(1, 4), (2, 8), (3, 16)]


def build(model, flavour="retrieval", **options):
    options = {"sizes": SIZES, **options}
    base = host.MultipleNegativesRankingLoss(model)
    if flavour == "retrieval":
        base = host.MultipleNegativesRankingLoss(model, scale=1.0, similarity_fct=dot_score)
    return StarbucksLoss(model, base, flavour=flavour, **options)


@pytest.mark.parametrize("flavour", ["retrieval", "sts"])
def test_the_value_is_that_of_the_formula(model, flavour):
    loss = build(model.double(), flavour)
    expected = reference.starbucks_loss(*embeddings_by_layer(model, loss.layers), 4, SIZES, flavour)
    assert loss(batch(model)).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("flavour", ["retrieval", "sts"])
@pytest.mark.parametrize("mini_batch_size", [2, 6])
def test_cached_gradients_equal_uncached_ones(model, flavour, mini_batch_size):
    model.eval()
    value, expected = gradients(build(model, flavour), batch(model))
    cached_value, cached = gradients(build(model, flavour, mini_batch_size=mini_batch_size), batch(model))
    assert cached_value == pytest.approx(value, rel=1e-5)
    assert all(torch.allclose(cached[name], gradient, atol=1e-5) for name, gradient in expected.items())


@pytest.mark.parametrize("flavour", ["retrieval", "sts"])
def test_the_full_size_is_a_teacher_and_no_pupil(model, flavour):
    loss = StarbucksLoss(model, Nothing(), sizes=SIZES, flavour=flavour)
    columns = [torch.randn(4, 4, 16, requires_grad=True) for _ in range(2)]
    loss.compute_loss(columns, None).backward()
    assert all(column.grad[:, -1].abs().max() == 0 for column in columns)
    assert all(column.grad[:, 0].abs().max() > 0 for column in columns)


def test_the_menu_is_the_papers_in_proportion(minilm):
    import st_plugins

    assert starbucks_menu(12, 768) == [(2, 32), (4, 64), (6, 128), (8, 256), (10, 512)]
    model = st_plugins.elastic(minilm)
    loss = StarbucksLoss(model, host.MultipleNegativesRankingLoss(model))
    assert loss.sizes == ((1, 16), (2, 32), (3, 64), (4, 128), (5, 256))


def test_sizes_are_recorded_in_training(model):
    build(model)(batch(model))
    assert model[0].sizes == [[1, 4], [2, 8], [3, 16], [4, 16]]


def test_single_texts_have_no_candidates(model):
    loss = StarbucksLoss(model, host.BatchAllTripletLoss(model), sizes=[(2, 8)])
    with pytest.raises(LossError, match="needs anchors and candidates, two or more columns, got 1"):
        loss(batch(model)[:1], torch.tensor([0, 0, 1, 1, 2, 2]))


def test_what_the_card_says(model):
    assert build(model, "sts").get_config_dict()["flavour"] == "sts"
    assert "Starbucks" in build(model).citation


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"flavour": "cold"}, LossError, "flavour must be .* got 'cold'"),
        ({"distillation_weight": float("inf")}, LossError, "distillation_weight must be a number >= 0, got inf"),
        ({"sizes": [(9, 4)]}, SizeError, "layer must be an integer from 1 to 4"),
    ],
)
def test_options_out_of_range_are_refused(model, options, error, message):
    with pytest.raises(error, match=message):
        build(model, **options)
