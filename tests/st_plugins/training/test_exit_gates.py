import numpy as np
import pytest
import torch

import exit_cases
from st_plugins.errors import ExitError, InputError, UntrainedSizeError
from st_plugins.exits import calibrate_exits
from st_plugins.exits.traces import trace
from st_plugins.training import train_gates
from st_plugins.training.exit_gates import fit_head


@pytest.fixture
def trained(model):
    return exit_cases.train(model)


def cosines(traced):
    return torch.nn.functional.cosine_similarity(traced.embeddings[:-1], traced.embeddings[-1:], dim=-1)  # (S - 1, N)


def test_scores_predict_the_cosine_of_texts_never_seen(trained):
    gate = train_gates(trained, exit_cases.texts(300, seed=1))
    assert gate.layers == (1, 2, 3)
    fresh = trace(trained, exit_cases.texts(300, seed=2))
    predicted, actual = fresh.scores(gate), cosines(fresh)
    error = (predicted - actual).pow(2).mean(dim=1) / actual.var(dim=1)
    assert bool((error < 1.02).all())  # the first exit of this random model knows nothing
    assert error[1] < 0.95
    assert error[2] < 0.8
    assert np.corrcoef(predicted[2], actual[2])[0, 1] > 0.4


def test_the_same_texts_give_the_same_gate(trained):
    texts = exit_cases.texts(60)
    gate = train_gates(trained, texts)
    assert train_gates(trained, [*texts, *texts]) == gate
    assert train_gates(trained, texts, batch_size=7).weights[2] == pytest.approx(gate.weights[2], abs=1e-3)


def test_a_gate_can_be_calibrated(trained):
    gate = train_gates(trained, exit_cases.texts(100, seed=1))
    policy = calibrate_exits(trained, exit_cases.texts(300, seed=2), name="gated", criterion=gate, alpha=0.45)
    assert policy.criterion == gate
    assert policy.certificate.expected_layers < 4


def test_the_model_is_left_as_it_is(trained):
    before = {name: weight.clone() for name, weight in trained.state_dict().items()}
    train_gates(trained, exit_cases.texts(50))
    assert all(torch.equal(weight, before[name]) for name, weight in trained.state_dict().items())
    assert trained[0].exit_policies == {}


def test_a_head_is_the_ridge_regression_of_the_docstring():
    torch.manual_seed(1)
    still = 2 + 1e-8 * torch.randn(200, 1).double()
    features = torch.cat([3 * torch.randn(200, 3) + 5, still, torch.ones(200, 1)], dim=1)
    targets = features @ torch.tensor([0.5, -0.2, 0.1, 9.0, 0.3]).double() + 0.1 * torch.randn(200)
    x = features[:, :3].double()
    z = ((x - x.mean(0)) / x.std(0, correction=0)).requires_grad_(False)
    w = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def objective():
        optimizer.zero_grad()
        loss = ((z @ w[:3] + w[3] - targets) ** 2).sum() + 0.001 * 200 * w[:3].pow(2).sum()
        loss.backward()
        return loss

    optimizer.step(objective)
    head = fit_head(features, targets)
    assert head[3] == 0
    predicted = features[:, :4].double() @ torch.tensor(head[:4], dtype=torch.float64) + head[4]
    assert torch.allclose(predicted, (z @ w[:3] + w[3]).detach(), atol=1e-6)


def test_what_no_gate_can_be_trained_on_is_refused(trained, model, plain):
    with pytest.raises(ExitError, match="at least 50 distinct texts to train a gate, got 2"):
        train_gates(trained, ["a", "b"] * 60)
    with pytest.raises(InputError, match="got none"):
        train_gates(trained, [])


def test_a_model_without_exits_is_refused(model):
    with pytest.raises(UntrainedSizeError, match="Exits need a model trained at layers below 4"):
        train_gates(model, exit_cases.texts(50))
