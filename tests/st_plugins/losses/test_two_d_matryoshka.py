import pytest
import torch
from sentence_transformers.sentence_transformer import losses as host

import reference
from loss_cases import Nothing, batch, embeddings_by_layer, gradients
from st_plugins.errors import LossError, SizeError
from st_plugins.losses import TwoDMatryoshkaLoss


def build(model, **options):
    return TwoDMatryoshkaLoss(model, host.MultipleNegativesRankingLoss(model), **{"dims": [4, 8], **options})


@pytest.mark.parametrize(("layer", "dim", "weight"), [(1, 4, 1.0), (3, 8, 0.25), (2, 4, 0.0)])
def test_the_value_is_that_of_the_formula(model, layer, dim, weight):
    loss = build(model.double(), layers=[layer], dims=[dim], alignment_weight=weight)
    expected = reference.two_d_matryoshka_loss(*embeddings_by_layer(model, (layer, 4)), layer, 4, dim, weight)
    assert loss(batch(model)).item() == pytest.approx(expected, rel=1e-9)


def test_identical_layers_cost_twice_the_deep_ones_and_align_for_free(model):
    loss = build(model)
    same = torch.randn(5, 1, 16).expand(5, 2, 16)
    base = loss.loss.compute_loss_from_embeddings([same[:, 0], same[:, 0]], None)
    cut = loss.loss.compute_loss_from_embeddings([same[:, 0, :8], same[:, 0, :8]], None)
    assert loss.compute_loss([same, same], None, 8).item() == pytest.approx(2 * (base + cut).item(), rel=1e-5)


def test_aligning_sends_nothing_to_the_deep_layer(model):
    loss = TwoDMatryoshkaLoss(model, Nothing(), dims=[4])
    columns = [torch.randn(4, 2, 16, requires_grad=True) for _ in range(2)]
    loss.compute_loss(columns, None, 4).backward()
    assert all(column.grad[:, 1].abs().max() == 0 for column in columns)
    assert all(column.grad[:, 0].abs().max() > 0 for column in columns)


@pytest.mark.parametrize("mini_batch_size", [2, 6])
def test_cached_gradients_equal_uncached_ones_at_the_same_draw(model, mini_batch_size):
    model.eval()
    torch.manual_seed(3)
    value, expected = gradients(build(model), batch(model))
    torch.manual_seed(3)
    cached_value, cached = gradients(build(model, mini_batch_size=mini_batch_size), batch(model))
    assert cached_value == pytest.approx(value, rel=1e-5)
    assert all(torch.allclose(cached[name], gradient, atol=1e-5) for name, gradient in expected.items())


def test_every_layer_and_dim_is_drawn_and_never_the_full_ones(model, monkeypatch):
    loss = build(model)
    drawn = set()

    def spy(columns, labels, dim):
        drawn.add(dim)
        return columns[0].sum()

    monkeypatch.setattr(loss, "compute_loss", spy)
    layers = []
    model[0].register_forward_hook(lambda module, inputs, output: layers.append(output["exit_layer"].unique().tolist()))
    for _ in range(40):
        loss(batch(model))
    assert drawn == {4, 8}
    assert sorted({tuple(pair) for pair in layers}) == [(1, 4), (2, 4), (3, 4)]


def test_the_papers_dims_are_powers_of_two(minilm):
    import st_plugins

    model = st_plugins.elastic(minilm)
    loss = TwoDMatryoshkaLoss(model, host.MultipleNegativesRankingLoss(model))
    assert loss.dims == (8, 16, 32, 64, 128, 256)
    assert loss.drawn_layers == (1, 2, 3, 4, 5)


def test_sizes_are_recorded_in_training(model):
    loss = build(model, layers=[2])
    assert model[0].sizes == []
    loss(batch(model))
    assert model[0].sizes == [[2, 4], [2, 8], [2, 16], [4, 4], [4, 8], [4, 16]]


def test_what_the_card_says(model):
    config = build(model).get_config_dict()
    assert (config["layers"], config["dims"]) == ([1, 2, 3], [4, 8])
    assert "2402.14776" in build(model).citation


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"alignment_weight": -1}, LossError, "alignment_weight must be a number >= 0, got -1"),
        ({"mini_batch_size": 0}, LossError, "mini_batch_size must be a positive integer"),
        ({"layers": [4]}, LossError, r"layers must lie below the full depth 4, got \[4\]"),
        ({"layers": [5]}, SizeError, "layer must be an integer from 1 to 4"),
        ({"dims": [16]}, LossError, r"dims must lie below the full width 16, got \[16\]"),
        ({"dims": [17]}, SizeError, "dim must be an integer from 1 to 16"),
        ({"dims": []}, LossError, "sizes must name at least one"),
    ],
)
def test_options_out_of_range_are_refused(model, options, error, message):
    with pytest.raises(error, match=message):
        build(model, **options)
