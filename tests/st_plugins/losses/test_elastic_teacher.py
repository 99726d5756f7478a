import copy

import pytest
import torch

import reference
from elastic_cases import SIZES, build
from loss_cases import ANCHORS, POSITIVES, Nothing, batch, embeddings_by_layer, gradients, tuned
from st_plugins.errors import LossError
from st_plugins.losses import ElasticLoss
from trainers import quiet_trainer


@pytest.fixture
def teacher(plain):
    """As deep and wide as the model, with other weights."""
    return tuned(plain, seed=1)


@pytest.mark.parametrize("mini_batch_size", [None, 4])
def test_with_a_teacher_the_value_is_that_of_the_formula(model, teacher, mini_batch_size):
    loss = build(
        model.double(), teacher=teacher.double(), teacher_weight=3.0, temperature=0.2, mini_batch_size=mini_batch_size
    )
    taught = [teacher.encode(side).tolist() for side in (ANCHORS, POSITIVES)]
    embedded = embeddings_by_layer(model, loss.layers)
    expected = reference.elastic_loss(*embedded, loss.layers, loss.sizes, 1.0, 1.0, 0.2, taught, pull=3.0)
    without = reference.elastic_loss(*embedded, loss.layers, loss.sizes, 1.0, 1.0, 0.2)
    teacher.train()  # as the trainer does with all of a loss; its dropout must stay off
    assert loss(batch(model)).item() == pytest.approx(expected, rel=1e-9)
    assert abs(expected - without) > 1e-3


def test_a_wider_teacher_is_compared_by_its_scores_alone(model):
    loss = build(model.double(), temperature=0.2)
    embedded = embeddings_by_layer(model, loss.layers)
    columns = [torch.tensor([side[k] for k in loss.layers], dtype=torch.float64).transpose(0, 1) for side in embedded]
    taught = [torch.randn(6, 20, dtype=torch.float64) for _ in columns]
    expected = reference.elastic_loss(
        *embedded, loss.layers, loss.sizes, 1.0, 1.0, 0.2, [column.tolist() for column in taught]
    )
    assert loss.compute_loss(columns, None, taught).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("width", [None, 16, 20])
def test_convergence_adds_the_distance_to_the_deep_vectors(model, width):
    loss = build(model.double(), temperature=0.2, convergence_weight=2.0)
    embedded = embeddings_by_layer(model, loss.layers)
    columns = [torch.tensor([side[k] for k in loss.layers], dtype=torch.float64).transpose(0, 1) for side in embedded]
    taught = None if width is None else [torch.randn(6, width, dtype=torch.float64) for _ in columns]
    lists = None if taught is None else [column.tolist() for column in taught]
    with_term, without = (
        reference.elastic_loss(*embedded, loss.layers, loss.sizes, 1.0, 1.0, 0.2, lists, convergence=weight)
        for weight in (2.0, 0.0)
    )
    assert loss.compute_loss(columns, None, taught).item() == pytest.approx(with_term, rel=1e-9)
    assert with_term - without > 1e-3


def test_convergence_moves_the_shallow_vectors_and_not_the_deep_ones(model):
    loss = ElasticLoss(
        model, Nothing(), sizes=SIZES, distillation_weight=0, cross_size_weight=0, convergence_weight=1.0
    )
    columns = [torch.randn(6, len(loss.layers), 16, requires_grad=True) for _ in range(2)]
    loss.compute_loss(columns, None).backward()
    for column in columns:
        assert column.grad[:, :-1].abs().min(dim=-1).values.min() > 0
        assert column.grad[:, -1].abs().max() == 0


def test_convergence_without_a_shallow_layer_is_nothing(model):
    alone = {"sizes": [(4, 8)], "distillation_weight": 0}
    assert build(model, **alone, convergence_weight=5.0)(batch(model)).item() == pytest.approx(
        build(model, **alone)(batch(model)).item(), rel=1e-6
    )


def test_a_teacher_holds_the_full_size_and_learns_nothing(model, teacher):
    loss = ElasticLoss(model, Nothing(), sizes=[(4, 16)], teacher=teacher)
    value, found = gradients(loss, batch(model))
    assert value > 0
    assert max(gradient.abs().max() for gradient in found.values()) > 1e-6
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_model_and_its_teacher_may_be_in_half_precision(model, teacher):
    value = build(model.bfloat16(), teacher=teacher.bfloat16())(batch(model))
    assert value.dtype == torch.float32
    assert torch.isfinite(value)


def test_a_copy_as_teacher_says_what_the_full_size_says(model):
    assert build(model, teacher=copy.deepcopy(model))(batch(model)).item() == pytest.approx(
        build(model)(batch(model)).item(), rel=1e-5
    )


def test_a_teacher_that_cannot_teach_is_refused(model, plain, teacher):
    for own in (model, plain):  # elastic models share the weights of the model they were made from
        with pytest.raises(LossError, match="teacher must have weights of its own, this one shares some with the mod"):
            build(model, teacher=own)
    with pytest.raises(LossError, match="teacher must be a SentenceTransformer that starts .* this Linear is none"):
        build(model, teacher=torch.nn.Linear(1, 1))
    teacher.tokenizer.add_tokens("unheard")
    with pytest.raises(LossError, match="and has the tokenizer of the model, this SentenceTransformer is none"):
        build(model, teacher=teacher)


def test_the_ordinary_trainer_leaves_the_teacher_alone(model, teacher, tmp_path):
    before, student = copy.deepcopy(teacher.state_dict()), copy.deepcopy(model.state_dict())
    options = {"max_steps": 2, "per_device_train_batch_size": 3, "learning_rate": 1e-2}
    quiet_trainer(model, build(model, teacher=teacher), tmp_path, **options).train()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert any(not torch.equal(value, student[name]) for name, value in model.state_dict().items())
