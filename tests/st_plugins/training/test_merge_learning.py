import copy
from functools import partial

import pytest
import torch
from datasets import Dataset
from sentence_transformers.sentence_transformer import losses as host

import loss_cases
from loss_cases import ANCHORS, POSITIVES
from st_plugins.errors import LossError, UnsupportedModelError
from st_plugins.losses import ElasticLoss
from st_plugins.training import learn_merge, merge_models
from st_plugins.training.merge_learning import MergeWeights, loss_slopes
from st_plugins.training.merging import TaskVectors, merge_shares

PAIRS = Dataset.from_dict({"anchor": ANCHORS, "positive": POSITIVES})
RATED = PAIRS.add_column("score", [1.0, 0.8, 0.5, 0.9, 0.7, 0.2])


tuned = partial(loss_cases.tuned, size=0.05)


def trained(base, loss_class, columns, labels=None, steps=40):
    """A copy that has learned a little of a task."""
    model = copy.deepcopy(base)
    loss = loss_class(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss([model.preprocess(column) for column in columns], labels).backward()
        optimizer.step()
    return model


def features(model):
    return [model.preprocess(ANCHORS), model.preprocess(POSITIVES)]


def value_at(base, models, weights, scale, method, loss_of):
    merged = merge_models(base, models, weights=weights, scale=scale, method=method)
    with torch.no_grad():
        return float(loss_of(merged)(features(merged), None))


@pytest.mark.parametrize(
    ("method", "loss_of"), [("slerp", "elastic"), ("arithmetic", host.MultipleNegativesRankingLoss)]
)
def test_the_gradient_of_each_number_is_that_of_finite_differences(plain, model, method, loss_of):
    if loss_of == "elastic":
        base = model.double()

        def loss_of(m):
            # Its other terms hold a teacher fixed, which a difference of values does not.
            weights = {"distillation_weight": 0.0, "cross_size_weight": 0.0}
            return ElasticLoss(m, host.MultipleNegativesRankingLoss(m), sizes=[(1, 8), (3, 16)], **weights)
    else:
        base = plain.double()
    models = [tuned(base, seed) for seed in (1, 2, 3)]
    weights, scale, step = [1.0, 2.0, 0.5], 0.9, 1e-4
    found = _gradients(base, models, weights, scale, method, loss_of(base).eval())
    for place in range(4):
        values = []
        for sign in (1, -1):
            moved = [*weights, scale]
            moved[place] += sign * step
            values.append(value_at(base, models, moved[:3], moved[3], method, lambda m: loss_of(m).eval()))
        assert found[place] == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-7)


def _gradients(base, models, weights, scale, method, loss):
    tasks = TaskVectors(base, models)
    w = torch.tensor(weights, dtype=torch.float64, requires_grad=True)
    s = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    shares = s * merge_shares(tasks.gram(), w, method)
    _, slopes = loss_slopes(loss, tasks, shares.detach(), features(base), None)
    (shares * slopes).sum().backward()
    return [*w.grad.tolist(), s.grad.item()]


def test_the_loss_is_that_of_the_merged_model(plain):
    models = [tuned(plain, seed) for seed in (1, 2)]
    found = learn_merge(plain, models, PAIRS, host.MultipleNegativesRankingLoss(plain), batch_size=6)
    expected = value_at(plain, models, [1, 1], 1.0, "slerp", host.MultipleNegativesRankingLoss)
    assert found.losses == pytest.approx([expected], rel=1e-5)
    assert [*found.weights, found.scale] != [1.0, 1.0, 1.0]


def test_it_moves_toward_the_model_that_knows_the_task(plain):
    wrong = POSITIVES[1:] + POSITIVES[:1]
    models = [
        trained(plain, host.MultipleNegativesRankingLoss, [ANCHORS, texts], steps=8) for texts in (wrong, POSITIVES)
    ]
    for method in ("slerp", "arithmetic"):
        loss = host.MultipleNegativesRankingLoss(plain)
        found = learn_merge(plain, models, PAIRS, loss, method=method, batch_size=6, epochs=8, learning_rate=0.1)
        assert found.weights[1] > 2 * found.weights[0]
        assert found.losses[-1] < found.losses[0]
        merged = value_at(plain, models, found.weights, found.scale, method, host.MultipleNegativesRankingLoss)
        assert merged < found.losses[0]


def test_labels_are_read_and_a_loss_may_return_parts(plain):
    class Parts(host.CosineSimilarityLoss):
        def forward(self, sentence_features, labels):
            value = super().forward(sentence_features, labels)
            return {"one": value / 2, "other": value / 2}

    models = [tuned(plain, seed) for seed in (1, 2)]
    whole = learn_merge(plain, models, RATED, host.CosineSimilarityLoss(plain), batch_size=3, epochs=2)
    parts = learn_merge(plain, models, RATED, Parts(plain), batch_size=3, epochs=2)
    assert parts.losses == pytest.approx(whole.losses)
    assert len(whole.losses) == 4


def test_a_penalty_makes_the_scale_smaller(plain):
    models, loss = [tuned(plain, 1)], host.MultipleNegativesRankingLoss(plain)
    free, held = (learn_merge(plain, models, PAIRS, loss, batch_size=6, epochs=5, penalty=p) for p in (0.0, 100.0))
    assert held.scale < free.scale
    assert held.scale == pytest.approx(0.75, abs=0.01)  # five steps of Adam, all downhill


@pytest.mark.parametrize("is_nested", [False, True])
def test_nothing_is_changed_and_the_same_seed_gives_the_same(plain, is_nested):
    plain.train()
    loss, models = host.MultipleNegativesRankingLoss(plain), [tuned(plain, seed) for seed in (1, 2)]
    loss = host.MatryoshkaLoss(plain, loss, [16, 8]) if is_nested else loss  # the model is in it twice
    held = dict(plain.named_parameters())
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    with torch.inference_mode():
        first = learn_merge(plain, models, PAIRS, loss, batch_size=3)
    second = learn_merge(plain, models, PAIRS, loss, batch_size=3)
    assert first == second
    assert isinstance(first, MergeWeights)
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    assert all(parameter is held[name] for name, parameter in plain.named_parameters())
    assert plain.training
    assert all(parameter.grad is None for parameter in plain.parameters())
    assert first != learn_merge(plain, models, PAIRS, loss, batch_size=3, seed=1)


def test_a_loss_that_cannot_be_minimised_here_is_refused(plain):
    models = [tuned(plain, 1)]
    with pytest.raises(LossError, match="must be built on the base, this one has other weights"):
        learn_merge(plain, models, PAIRS, host.MultipleNegativesRankingLoss(models[0]))
    cached = host.CachedMultipleNegativesRankingLoss(plain)
    with pytest.raises(LossError, match="must not cache gradients, got CachedMultipleNegativesRankingLoss"):
        learn_merge(plain, models, PAIRS, cached)
    with pytest.raises(UnsupportedModelError, match="must differ from the base"):
        learn_merge(plain, [copy.deepcopy(plain)], PAIRS, host.MultipleNegativesRankingLoss(plain))


def test_nan_is_refused(plain):
    broken = tuned(plain, 1)
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    with pytest.raises(LossError, match="The loss must be numbers, got NaN"):
        learn_merge(plain, [broken], PAIRS, host.MultipleNegativesRankingLoss(plain), batch_size=6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 1}, "two rows, two per batch and one epoch, got 6, 1 and 1"),
        ({"epochs": 0}, "got 6, 32 and 0"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0 and penalty >= 0, got 0.0 and 0.0"),
        ({"penalty": -1.0}, "got 0.05 and -1.0"),
    ],
)
def test_an_option_out_of_range_is_refused(plain, options, message):
    with pytest.raises(LossError, match=message):
        learn_merge(plain, [tuned(plain, 1)], PAIRS, host.MultipleNegativesRankingLoss(plain), **options)
