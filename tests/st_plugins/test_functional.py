import math

import pytest
import torch

import reference
from st_plugins.functional import balanced_assignment, by_layer, compression_target, distribution_loss, truncate


def test_truncate_by_hand():
    assert torch.allclose(truncate(torch.tensor([[3.0, 4.0, 12.0]]), 2), torch.tensor([[0.6, 0.8]]))


def test_truncate_equals_the_reference():
    x = torch.randn(5, 12, dtype=torch.float64)
    for dim in (1, 7, 12):
        expected = torch.tensor([reference.truncate(row.tolist(), dim) for row in x], dtype=torch.float64)
        assert torch.allclose(truncate(x, dim), expected, atol=1e-14)


def test_cutting_twice_is_cutting_once():
    x = torch.randn(4, 12, dtype=torch.float64)
    assert torch.allclose(truncate(truncate(x, 8), 3), truncate(x, 3), atol=1e-15)


def test_a_zero_vector_stays_zero():
    assert truncate(torch.zeros(1, 4), 2).tolist() == [[0.0, 0.0]]


def test_distribution_loss_by_hand():
    # Teacher (ln 3, 0) is the distribution (3/4, 1/4), the student (0, 0) is (1/2, 1/2).
    loss = distribution_loss(torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]]), 1.0)
    assert loss.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-7)


@pytest.mark.parametrize("temperature", [0.02, 0.5, 3.0])
def test_distribution_loss_equals_the_reference(temperature):
    student, teacher = torch.randn(2, 4, 6, dtype=torch.float64)
    expected = reference.distribution_loss(student.tolist(), teacher.tolist(), temperature)
    assert distribution_loss(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-12)


def test_distribution_loss_is_zero_when_rows_differ_by_a_constant():
    teacher = torch.randn(3, 5, dtype=torch.float64)
    student = teacher + torch.tensor([[1.0], [-2.0], [7.0]])
    assert abs(distribution_loss(student, teacher, 0.3).item()) < 1e-14


def test_distribution_loss_has_the_gradient_of_finite_differences():
    teacher = torch.randn(3, 4, dtype=torch.float64)
    student = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: distribution_loss(s, teacher, 0.5), student)


def test_the_gradient_is_the_difference_of_the_distributions():
    teacher, student = torch.randn(2, 3, 4, dtype=torch.float64)
    student.requires_grad_()
    distribution_loss(student, teacher, 0.5).backward()
    expected = (torch.softmax(student / 0.5, -1) - torch.softmax(teacher / 0.5, -1)) / (3 * 0.5)
    assert torch.allclose(student.grad, expected.detach(), atol=1e-14)


def test_the_teacher_gets_no_gradient():
    teacher = torch.randn(2, 3, requires_grad=True)
    distribution_loss(torch.randn(2, 3, requires_grad=True), teacher, 1.0).backward()
    assert teacher.grad is None


def test_extreme_scores_stay_finite():
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = distribution_loss(student, -student.detach(), 0.05)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("dim", [1, 3])
def test_the_compression_target_equals_the_reference(dim):
    rows = torch.randn(6, 5, dtype=torch.float64)
    expected = torch.tensor(reference.compression_target(rows.tolist(), dim), dtype=torch.float64)
    assert torch.allclose(compression_target(rows, dim), expected, atol=1e-6)


def test_the_compression_target_is_the_same_for_every_order_of_the_batch():
    rows = torch.randn(7, 6, dtype=torch.float64)
    order = torch.randperm(7)
    assert torch.allclose(compression_target(rows[order], 4), compression_target(rows, 4)[order], atol=1e-10)


def test_the_compression_target_has_no_gradient_and_keeps_the_dtype():
    rows = torch.randn(4, 6, dtype=torch.bfloat16, requires_grad=True)
    target = compression_target(rows, 2)
    assert not target.requires_grad
    assert target.dtype == torch.bfloat16


def test_by_layer_undoes_the_stacking():
    stacked = torch.arange(12.0).reshape(6, 2)  # layers a, b of three texts
    columns = by_layer(stacked, (1, 4))
    assert columns.shape == (3, 2, 2)
    assert columns[1].tolist() == [[2.0, 3.0], [8.0, 9.0]]


def test_balanced_assignment_is_the_alternation_of_sinkhorn():
    distances = torch.rand(6, 3)
    found = balanced_assignment(distances, epsilon=0.1, iterations=20)
    expected = torch.tensor(reference.balanced_assignment(distances.tolist(), 0.1, 20), dtype=torch.double)
    assert torch.allclose(found, expected, atol=1e-6)  # the distances there are of single precision


def test_balanced_assignment_fills_columns_evenly_where_the_nearest_does_not():
    torch.manual_seed(0)
    points, centers = torch.randn(256, 4).double(), torch.randn(16, 4).double()
    distances = torch.cdist(points, centers).square()
    soft = balanced_assignment(distances)
    assert torch.allclose(soft.sum(dim=1), torch.ones(256).double(), atol=1e-12)
    loads = soft.argmax(dim=1).bincount(minlength=16)
    nearest = distances.argmin(dim=1).bincount(minlength=16)
    assert loads.min() >= 12
    assert loads.max() <= 20
    assert nearest.max() - nearest.min() > 20
    even = balanced_assignment(distances, epsilon=0.05).sum(dim=0)
    assert torch.allclose(even, torch.full((16,), 16.0).double(), atol=1e-6)


def test_every_matrix_is_assigned_by_itself():
    many = torch.rand(3, 6, 4)
    many[1] *= 100
    alone = torch.stack([balanced_assignment(matrix) for matrix in many])
    assert torch.allclose(balanced_assignment(many), alone, atol=1e-12)


def test_balanced_assignment_of_equal_distances_is_even():
    found = balanced_assignment(torch.ones(4, 2))
    assert torch.allclose(found, torch.full((4, 2), 0.5).double())
