import pytest
import torch

import reference
from st_plugins.errors import LossError
from st_plugins.losses.orthogonal_projection import OrthogonalProjectionLoss

CLASSES = torch.tensor([3, 1, 3, 0, 1])


@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("negative_weight", [0.0, 0.5, 2.0])
def test_the_value_is_that_of_the_formula(plain, columns, negative_weight):
    texts = [torch.randn(5, 8).double() for _ in range(columns)]
    loss = OrthogonalProjectionLoss(plain, negative_weight=negative_weight)
    expected = reference.orthogonal_projection(torch.cat(texts).tolist(), CLASSES.tolist() * columns, negative_weight)
    assert loss.compute_loss_from_embeddings(texts, CLASSES).item() == pytest.approx(expected, rel=1e-12)


def test_without_labels_every_row_is_a_class(plain):
    texts = [torch.randn(5, 8).double() for _ in range(2)]
    loss = OrthogonalProjectionLoss(plain)
    expected = loss.compute_loss_from_embeddings(texts, torch.arange(5))
    assert torch.equal(loss.compute_loss_from_embeddings(texts), expected)


def test_by_hand(plain):
    loss = OrthogonalProjectionLoss(plain)
    right_angles = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    classes = torch.tensor([0, 0, 1, 1])
    assert loss.compute_loss_from_embeddings([right_angles], classes).item() == pytest.approx(0)
    one_point = torch.ones(4, 2)
    assert loss.compute_loss_from_embeddings([one_point], classes).item() == pytest.approx(0.5)
    opposite = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    # The authors' code, without the absolute value, would say -0.5.
    assert loss.compute_loss_from_embeddings([opposite], classes).item() == pytest.approx(0.5)


def test_a_part_without_pairs_is_zero_and_has_a_gradient_all_the_same(plain):
    loss = OrthogonalProjectionLoss(plain)
    texts = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    assert loss.compute_loss_from_embeddings([texts], torch.tensor([0, 1])).item() == pytest.approx(0.5)
    assert loss.compute_loss_from_embeddings([texts], torch.tensor([0, 0])).item() == pytest.approx(0)
    one = loss.compute_loss_from_embeddings([texts[:1]], torch.tensor([0]))
    one.backward()
    assert one.item() == 0
    assert texts.grad.abs().max() == 0


def test_lengths_rotations_and_the_order_of_rows_do_not_matter(plain):
    loss = OrthogonalProjectionLoss(plain)
    texts = torch.randn(5, 8).double()
    value = loss.compute_loss_from_embeddings([texts], CLASSES)
    turn, order = torch.linalg.qr(torch.randn(8, 8).double())[0], torch.randperm(5)
    other = loss.compute_loss_from_embeddings([(3 * texts @ turn)[order]], CLASSES[order])
    assert other.item() == pytest.approx(value.item(), rel=1e-12)


def test_what_it_cannot_use_is_refused(plain):
    with pytest.raises(LossError, match="negative_weight must be a number >= 0, got -1"):
        OrthogonalProjectionLoss(plain, negative_weight=-1)
    with pytest.raises(LossError, match="must have labels, or rows of two texts or more of one class, got one text"):
        OrthogonalProjectionLoss(plain).compute_loss_from_embeddings([torch.eye(3)])
