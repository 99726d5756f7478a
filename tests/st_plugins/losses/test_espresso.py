import pytest
import torch
from sentence_transformers.sentence_transformer import losses as host

import reference
from loss_cases import batch, embeddings_by_layer, gradients
from st_plugins.errors import LossError, SizeError
from st_plugins.losses import EspressoLoss


def build(model, **options):
    return EspressoLoss(model, host.MultipleNegativesRankingLoss(model), **{"dim": 3, **options})


@pytest.mark.parametrize(("weight", "temperature"), [(1.0, 1.0), (0.5, 0.2)])
def test_the_value_is_that_of_the_formula(model, weight, temperature):
    loss = build(model.double(), compression_weight=weight, temperature=temperature)
    expected = reference.espresso_loss(*embeddings_by_layer(model, loss.layers), 4, 3, weight, temperature)
    assert loss(batch(model)).item() == pytest.approx(expected, rel=1e-5)


def test_the_depth_weights_are_those_of_the_paper(model):
    loss = EspressoLoss(model, _Count(), dim=3, compression_weight=0.0)
    zeros = torch.zeros(2, 4, 16)
    for layer, weight in ((1, 1.0), (2, 0.591), (3, 0.476)):
        column = zeros.clone()
        column[0, layer - 1, 0] = 1.0
        assert loss.compute_loss([column], None).item() == pytest.approx(weight / 3, abs=1e-3)


class _Count(torch.nn.Module):
    """Counts ones in the first coordinate, so that its place in the sum shows."""

    def compute_loss_from_embeddings(self, embeddings, labels):
        return embeddings[0][:, 0].sum()


@pytest.mark.parametrize("mini_batch_size", [2, 6])
def test_cached_gradients_equal_uncached_ones(model, mini_batch_size):
    model.eval()
    value, expected = gradients(build(model), batch(model))
    cached_value, cached = gradients(build(model, mini_batch_size=mini_batch_size), batch(model))
    assert cached_value == pytest.approx(value, rel=1e-5)
    assert all(torch.allclose(cached[name], gradient, atol=1e-4) for name, gradient in expected.items())


def test_every_layer_is_trained_at_the_compressed_size(model):
    build(model)(batch(model))
    assert model[0].sizes == [[1, 3], [2, 3], [3, 3], [4, 3], [4, 16]]


def test_what_the_card_says(model):
    assert build(model).get_config_dict()["dim"] == 3
    assert "Espresso" in build(model).citation


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"compression_weight": -1}, LossError, "compression_weight must be a number >= 0"),
        ({"temperature": 0}, LossError, "temperature must be > 0"),
        ({"dim": 17}, SizeError, "dim must be an integer from 1 to 16"),
    ],
)
def test_options_out_of_range_are_refused(model, options, error, message):
    with pytest.raises(error, match=message):
        build(model, **options)
