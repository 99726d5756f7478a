import pytest
import torch
from sentence_transformers.sentence_transformer import losses as host

from loss_cases import batch
from st_plugins.errors import LossError
from st_plugins.functional import distribution_loss
from st_plugins.losses.layer_loss import LayerLoss


class _Norms(LayerLoss):
    """The simplest formula: how long the vectors of two layers are."""

    layers = (2, 4)
    sizes = ((2, 8),)

    def options(self):
        return {"my_option": 3}

    def compute_loss(self, columns, labels):
        return sum(column.square().sum() for column in columns)


def test_it_is_no_loss_by_itself(model):
    with pytest.raises(TypeError, match="abstract"):
        LayerLoss(model, host.MultipleNegativesRankingLoss(model), mini_batch_size=None)


@pytest.mark.parametrize("mini_batch_size", [None, 2])
def test_the_formula_gets_every_column_at_its_layers(model, mini_batch_size):
    loss = _Norms(model, host.MultipleNegativesRankingLoss(model), mini_batch_size=mini_batch_size)
    # Two columns of six texts at two layers, all unit vectors.
    assert loss(batch(model)).item() == pytest.approx(24, rel=1e-5)
    assert loss.uses_gradient_cache == (mini_batch_size is not None)
    assert loss.full_size == (4, 16)


@pytest.mark.parametrize("mini_batch_size", [None, 2])
def test_mixed_precision_does_not_round_the_formula(model, mini_batch_size):
    seen = []

    class Noted(_Norms):
        def compute_loss(self, columns, labels):
            seen.extend([*columns, columns[0][:, 0] @ columns[1][:, 1].T])
            return super().compute_loss(columns, labels)

    loss = Noted(model.bfloat16(), host.MultipleNegativesRankingLoss(model), mini_batch_size=mini_batch_size)
    with torch.autocast("cpu", torch.bfloat16):
        loss(batch(model)).backward()
    assert {one.dtype for one in seen} == {torch.float32}
    assert next(model.parameters()).grad.dtype == torch.bfloat16


def test_sizes_are_recorded_by_training_alone(model):
    loss = _Norms(model, host.MultipleNegativesRankingLoss(model), mini_batch_size=None)
    with torch.no_grad():
        loss(batch(model))
    loss.eval()(batch(model))
    assert model[0].sizes == []
    loss.train()(batch(model))
    assert model[0].sizes == [[2, 8], [4, 16]]


def test_a_weight_is_refused_by_the_name_the_subclass_gave_it(model):
    with pytest.raises(LossError, match="my_weight must be a number >= 0, got -1"):
        _Norms(model, host.MultipleNegativesRankingLoss(model), mini_batch_size=None, my_weight=-1)


def test_the_card_names_the_base_loss_and_all_options(model):
    loss = _Norms(model, host.MultipleNegativesRankingLoss(model), mini_batch_size=2, temperature=0.5)
    assert loss.get_config_dict() == {
        "loss": "MultipleNegativesRankingLoss",
        "my_option": 3,
        "temperature": 0.5,
        "mini_batch_size": 2,
    }


def test_its_divergence_is_at_its_temperature(model):
    loss = _Norms(model, host.MultipleNegativesRankingLoss(model), mini_batch_size=None, temperature=0.5)
    student, teacher = torch.randn(2, 3), torch.randn(2, 3)
    assert loss.divergence(student, teacher) == distribution_loss(student, teacher, 0.5)
