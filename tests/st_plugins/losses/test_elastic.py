import copy

import pytest
import sentence_transformers
import torch
from sentence_transformers.sentence_transformer import losses as host

import reference
from elastic_cases import SIZES, build
from loss_cases import ANCHORS, POSITIVES, Nothing, batch, embeddings_by_layer, gradients
from st_plugins.errors import LossError, SizeError, UnsupportedModelError, UntrainedSizeError
from st_plugins.losses import ElasticLoss
from trainers import quiet_trainer


@pytest.mark.parametrize(("distillation", "cross"), [(1.0, 1.0), (0.5, 0.0), (0.0, 2.0)])
def test_the_value_is_that_of_the_formula(model, distillation, cross):
    loss = build(model.double(), distillation_weight=distillation, cross_size_weight=cross, temperature=0.2)
    embedded = embeddings_by_layer(model, loss.layers)
    expected = reference.elastic_loss(*embedded, loss.layers, loss.sizes, distillation, cross, 0.2)
    assert loss(batch(model)).item() == pytest.approx(expected, rel=1e-9)


def test_with_only_the_full_size_it_is_the_base_loss(model):
    loss = ElasticLoss(model, host.MultipleNegativesRankingLoss(model), sizes=[(4, 16)])
    assert loss(batch(model)).item() == pytest.approx(loss.loss(batch(model), None).item(), rel=1e-6)


def test_identical_layers_leave_only_the_task(model):
    loss = ElasticLoss(model, host.MultipleNegativesRankingLoss(model), sizes=[(2, 16), (3, 16)])
    same = torch.randn(6, 1, 16).expand(6, 3, 16)
    assert loss.compute_loss([same, same], None).item() == pytest.approx(
        2 * loss.loss.compute_loss_from_embeddings([same[:, 0], same[:, 0]], None).item(), rel=1e-5
    )


@pytest.mark.parametrize("mini_batch_size", [1, 4, 6])
def test_cached_gradients_equal_uncached_ones(model, mini_batch_size):
    model.double().eval()
    value, expected = gradients(build(model), batch(model))
    cached_value, cached = gradients(build(model, mini_batch_size=mini_batch_size), batch(model))
    assert cached_value == pytest.approx(value, rel=1e-12)
    assert set(cached) == set(expected)
    assert max(g.abs().max() for g in expected.values()) > 1e-3
    # sentence-transformers 5 replays in single precision whatever the model's is.
    tolerance = 1e-12 if sentence_transformers.__version__ >= "6" else 1e-6
    for name, gradient in expected.items():
        assert torch.allclose(cached[name], gradient, atol=tolerance), name


def test_with_cached_gradients_the_scores_of_all_sizes_are_not_kept_at_once(model):
    def kept(sizes, mini_batch_size):
        loss = build(model, sizes=sizes, mini_batch_size=mini_batch_size)
        columns = [torch.randn(100, len(loss.layers), 16, requires_grad=True) for _ in range(2)]
        tensors = {}
        hooks = (lambda t: tensors.update({t.data_ptr(): t.numel()}) or t), (lambda t: t)
        with torch.autograd.graph.saved_tensors_hooks(*hooks):
            value = loss.compute_loss(columns, None)
        assert value.requires_grad
        return sum(tensors.values())

    def kept_per_size(mini_batch_size):
        three, one = (kept([(layer, 16) for layer in layers], mini_batch_size) for layers in ((1, 2, 3), (1,)))
        return (three - one) / 2

    assert kept_per_size(None) > 200 * 200  # the scores of Q alone
    assert kept_per_size(4) < 3 * 200 * 16  # texts


def test_cached_and_uncached_draw_the_same_dropout(model):
    model.train()
    torch.manual_seed(5)
    value, expected = gradients(build(model), batch(model))
    torch.manual_seed(5)
    cached_value, cached = gradients(build(model, mini_batch_size=6), batch(model))
    assert cached_value == value
    assert all(torch.allclose(cached[name], gradient, atol=1e-6) for name, gradient in expected.items())


def test_gradients_equal_finite_differences(model):
    loss = build(model, sizes=[(1, 4), (3, 16), (4, 8)], temperature=0.3)
    columns = [torch.randn(3, len(loss.layers), 16, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    # The teacher is detached on purpose, so only the smaller layers have the gradient of the value.
    parts = [column[:, -1:].detach() for column in columns]

    def value(a, b):
        return loss.compute_loss([torch.cat([a, parts[0]], 1), torch.cat([b, parts[1]], 1)], None)

    shallow = [column[:, :-1].detach().clone().requires_grad_() for column in columns]
    assert torch.autograd.gradcheck(value, tuple(shallow))


def test_teaching_sends_nothing_to_the_full_size(model):
    loss = ElasticLoss(model, Nothing(), sizes=[(2, 16), (1, 8)])
    columns = [torch.randn(4, 3, 16, requires_grad=True) for _ in range(2)]
    loss.compute_loss(columns, None).backward()
    assert all(column.grad[:, -1].abs().max() == 0 for column in columns)
    assert all(column.grad[:, 0].abs().max() > 0 for column in columns)


def test_rotating_the_space_of_the_full_size_changes_nothing(model):
    loss = ElasticLoss(model, Nothing(), sizes=[(2, 16)], cross_size_weight=0.0)
    columns = [torch.randn(4, 2, 16, dtype=torch.float64) for _ in range(2)]
    rotation = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64))[0]
    rotated = [torch.stack([column[:, 0], column[:, 1] @ rotation], 1) for column in columns]
    assert loss.compute_loss(rotated, None).item() == pytest.approx(loss.compute_loss(columns, None).item(), rel=1e-9)


def test_the_encoder_runs_once_per_column(model):
    runs = []
    model[0].model.embeddings.register_forward_hook(lambda *_: runs.append(1))
    build(model)(batch(model))
    assert len(runs) == 2


def test_the_batch_is_left_as_it_was(model):
    features = batch(model)
    keys = [sorted(column) for column in features]
    build(model)(features)
    assert [sorted(column) for column in features] == keys


def test_labelled_pairs_and_dict_losses_are_taken(model):
    labels = torch.tensor([0.1, 0.9, 0.3, 0.5, 0.2, 0.8])
    scored = ElasticLoss(model, host.CoSENTLoss(model), sizes=SIZES)
    assert torch.isfinite(scored(batch(model), labels))
    regular = host.GlobalOrthogonalRegularizationLoss(model)
    assert isinstance(regular(batch(model), None), dict)
    value, found = gradients(ElasticLoss(model, regular, sizes=SIZES), batch(model))
    assert value == value
    assert found


def test_one_column_is_compared_with_itself(model):
    loss = ElasticLoss(model, host.BatchAllTripletLoss(model), sizes=SIZES)
    value, found = gradients(loss, [model.preprocess(ANCHORS)], torch.tensor([0, 0, 1, 1, 2, 2]))
    assert value > 0
    assert found


def test_a_last_batch_of_one_pair_and_extreme_temperatures_stay_finite(model):
    loss = build(model)
    loss(batch(model))
    assert torch.isfinite(loss([model.preprocess(ANCHORS[:1]), model.preprocess(POSITIVES[:1])]))
    value, found = gradients(build(model, temperature=1e-4), batch(model))
    assert value < float("inf")
    assert all(torch.isfinite(gradient).all() for gradient in found.values())


def test_steps_lower_it(model):
    loss = build(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    values = []
    for _ in range(8):
        optimizer.zero_grad()
        value = loss(batch(model))
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.9 * values[0]


@pytest.mark.parametrize("mini_batch_size", [None, 4])
def test_the_ordinary_trainer_trains_it_and_the_sizes_are_saved(model, tmp_path, texts, mini_batch_size):
    with pytest.raises(UntrainedSizeError, match="trained for"):
        model.encode(texts, layer=1)
    before = copy.deepcopy(model.state_dict())
    loss = build(model, mini_batch_size=mini_batch_size)
    options = {"max_steps": 2, "per_device_train_batch_size": 3, "learning_rate": 1e-2}
    quiet_trainer(model, loss, tmp_path / "run", **options).train()
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[0].sizes == [[1, 4], [2, 8], [3, 16], [4, 8], [4, 16]]
    assert model.encode(texts, layer=1, truncate_dim=4).shape == (5, 4)
    model.save_pretrained(str(tmp_path / "model"))
    card = (tmp_path / "model" / "README.md").read_text()
    assert "ElasticLoss" in card
    assert '"cross_size_weight": 1.0' in card


def test_evaluating_a_loss_does_not_declare_sizes_trained(model):
    loss = build(model)
    with torch.no_grad():
        loss(batch(model))
    loss.eval()
    loss(batch(model))
    assert model[0].sizes == []


def test_without_sizes_every_layer_is_trained_at_four_dims(minilm):
    import st_plugins

    model = st_plugins.elastic(minilm)
    loss = ElasticLoss(model, host.MultipleNegativesRankingLoss(model))
    assert {layer for layer, _ in loss.sizes} == {1, 2, 3, 4, 5, 6}
    assert {dim for _, dim in loss.sizes} == {48, 96, 192, 384}
    assert len(loss.sizes) == 23


def test_a_narrow_model_without_sizes_keeps_its_width(model):
    loss = ElasticLoss(model, host.MultipleNegativesRankingLoss(model))
    assert loss.sizes == ((1, 16), (2, 16), (3, 16))


def test_a_default_truncate_dim_does_not_narrow_the_training(model):
    model.truncate_dim = 8
    assert build(model).full_size == (4, 16)


def test_what_the_card_says(model):
    loss = build(model, mini_batch_size=2)
    assert loss.get_config_dict()["sizes"] == [[1, 4], [2, 8], [3, 16], [4, 8], [4, 16]]
    assert loss.get_config_dict()["loss"] == "MultipleNegativesRankingLoss"
    assert loss.get_config_dict()["teacher"] is False
    assert "2402.14776" in loss.citation


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distillation_weight": -1}, "distillation_weight must be a number >= 0, got -1"),
        ({"cross_size_weight": float("nan")}, "cross_size_weight must be a number >= 0, got nan"),
        ({"teacher_weight": -1}, "teacher_weight must be a number >= 0, got -1"),
        ({"convergence_weight": -1}, "convergence_weight must be a number >= 0, got -1"),
        ({"temperature": 0}, "temperature must be > 0, got 0"),
        ({"mini_batch_size": 0}, "mini_batch_size must be a positive integer or None, got 0"),
        ({"sizes": []}, "sizes must name at least one"),
        ({"sizes": [(2, 8), (2, 8)]}, "sizes must not repeat"),
    ],
)
def test_options_out_of_range_are_refused(model, options, message):
    with pytest.raises(LossError, match=message):
        build(model, **options)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((5, 8), "layer must be"),
        ((0, 8), "layer must be"),
        ((2, 17), "dim must be"),
        ((2, 0), "dim must be"),
        ((2,), "pairs"),
    ],
)
def test_sizes_that_do_not_exist_are_refused(model, size, message):
    with pytest.raises(SizeError, match=message):
        build(model, sizes=[size])


def test_a_plain_model_is_refused(plain):
    with pytest.raises(UnsupportedModelError, match="a loss over layers must be elastic"):
        ElasticLoss(plain, host.MultipleNegativesRankingLoss(plain))


def test_a_loss_that_caches_itself_is_refused(model):
    with pytest.raises(LossError, match=r"must not cache gradients itself, got CachedMultiple.*mini_batch_size"):
        ElasticLoss(model, host.CachedMultipleNegativesRankingLoss(model))


def test_a_loss_without_the_embedding_interface_is_refused(model):
    with pytest.raises(LossError, match="must have compute_loss_from_embeddings, MSELoss has not"):
        ElasticLoss(model, torch.nn.MSELoss())
