import math

import pytest
import torch
import torch.nn.functional as F
from sentence_transformers.sentence_transformer import losses as host

import reference
from st_plugins.errors import LossError
from st_plugins.losses.soft_contrastive import SoftContrastiveLoss

LABELS = torch.tensor([0, 1, 0, 2, 1])
NAMES = torch.eye(3, dtype=torch.float64)


def build(model, label_embeddings=NAMES, **options):
    return SoftContrastiveLoss(model, label_embeddings, **options)


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize(("temperature", "label_temperature"), [(0.05, 0.35), (1.0, 0.1)])
def test_the_value_is_that_of_the_formula(plain, columns, temperature, label_temperature):
    names = torch.randn(3, 7).double()
    texts = [torch.randn(5, 8).double() for _ in range(columns)]
    loss = build(plain, names, temperature=temperature, label_temperature=label_temperature)
    expected = reference.soft_contrastive(
        [text.tolist() for text in texts], LABELS.tolist(), names.tolist(), temperature, label_temperature
    )
    assert loss.compute_loss_from_embeddings(texts, LABELS).item() == pytest.approx(expected, rel=1e-12)


def test_the_golden_value_of_the_reference_page(plain):
    loss = build(plain, torch.eye(2), temperature=1.0, label_temperature=1.0)
    value = loss.compute_loss_from_embeddings([torch.eye(2), torch.eye(2)], torch.tensor([0, 1]))
    assert value.item() == pytest.approx(0.58220, abs=5e-6)


def test_texts_that_lie_as_their_labels_reach_the_entropy_of_the_target_and_nothing_is_lower(plain):
    names = torch.randn(4, 6).double()
    labels = torch.arange(4)
    loss = build(plain, names, temperature=0.3, label_temperature=0.3)
    target = (F.normalize(names, dim=1) @ F.normalize(names, dim=1).T / 0.3).softmax(dim=1)
    entropy = -(target * target.log()).sum(dim=1).mean().item()
    best = names.clone().requires_grad_()
    value = loss.compute_loss_from_embeddings([best, best], labels)
    value.backward()
    assert value.item() == pytest.approx(entropy, rel=1e-12)
    assert best.grad.abs().max() < 1e-12
    for _ in range(20):
        near = best.detach() + 0.3 * torch.randn_like(names)
        assert loss.compute_loss_from_embeddings([near, near], labels).item() > entropy


def test_a_small_label_temperature_leaves_equal_labels_alone(plain):
    """Supervised contrastive learning with targets uniform over the rows of a label, the own row among them."""
    first, second = torch.randn(5, 8).double(), torch.randn(5, 8).double()
    names = F.normalize(torch.randn(3, 6).double(), dim=1)
    loss = build(plain, names, label_temperature=1e-4)
    same = (LABELS[:, None] == LABELS).double()
    target = same / same.sum(dim=1, keepdim=True)
    scores = F.normalize(first, dim=1) @ F.normalize(second, dim=1).T / 0.05
    expected = (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2
    value = loss.compute_loss_from_embeddings([first, second], LABELS)
    assert value.item() == pytest.approx(expected.item(), abs=1e-10)


def test_a_large_label_temperature_wants_all_alike(plain):
    texts = torch.randn(5, 8).double()
    loss = build(plain, label_temperature=1e12)
    scores = F.normalize(texts, dim=1) @ F.normalize(texts, dim=1).T / 0.05
    expected = -scores.log_softmax(dim=1).mean()
    assert loss.compute_loss_from_embeddings([texts, texts], LABELS).item() == pytest.approx(expected.item(), rel=1e-10)


def test_labels_of_one_pair_each_and_no_likeness_are_the_hosts_symmetric_loss(plain):
    texts = [torch.randn(3, 8).double() for _ in range(2)]
    ours = build(plain, label_temperature=1e-4).compute_loss_from_embeddings(texts, torch.arange(3))
    theirs = host.MultipleNegativesRankingLoss(
        plain, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
    ).compute_loss_from_embeddings(texts, None)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-10)


def test_texts_of_similar_labels_are_pushed_apart_less(plain):
    """Three texts on the corners of a triangle: the one whose label is like the anchor's is asked nearer."""
    names = torch.tensor([[1.0, 0.0], [math.cos(0.3), math.sin(0.3)], [0.0, 1.0]])
    texts = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], requires_grad=True)
    build(plain, names).compute_loss_from_embeddings([texts], torch.arange(3)).backward()
    towards_similar, towards_other = -texts.grad[0, 1], -texts.grad[0, 2]
    assert towards_similar > 0 > towards_other


def test_lengths_rotations_and_the_order_of_rows_do_not_matter(plain):
    loss = build(plain, torch.randn(3, 4).double())
    texts = [torch.randn(5, 8).double() for _ in range(2)]
    value = loss.compute_loss_from_embeddings(texts, LABELS)
    turn = torch.linalg.qr(torch.randn(8, 8).double())[0]
    order = torch.randperm(5)
    other = loss.compute_loss_from_embeddings([(3 * text @ turn)[order] for text in texts], LABELS[order])
    assert other.item() == pytest.approx(value.item(), rel=1e-12)


def test_the_label_model_may_be_one_of_dot_products(plain):
    """Targets are of cosines: the lengths of the embeddings of labels do not count."""
    names = torch.randn(3, 4).double()
    texts = [torch.randn(5, 8).double() for _ in range(2)]
    longer = names * torch.tensor([[0.2], [3.0], [50.0]])
    values = [build(plain, each).compute_loss_from_embeddings(texts, LABELS).item() for each in (names, longer)]
    assert values[1] == pytest.approx(values[0], rel=1e-12)


def test_the_embeddings_of_labels_are_a_copy_without_a_gradient(plain):
    names = torch.randn(3, 4, requires_grad=True)
    loss = build(plain, names)
    with torch.no_grad():
        names.zero_()
    assert torch.allclose(loss.label_vectors.norm(dim=1), torch.ones(3))
    assert not loss.label_vectors.requires_grad
    assert loss.state_dict().keys() == {f"model.{name}" for name in plain.state_dict()}


@pytest.mark.parametrize("option", ["temperature", "label_temperature"])
def test_a_temperature_that_is_not_positive_is_refused(plain, option):
    with pytest.raises(LossError, match=rf"^{option} must be > 0, got 0"):
        build(plain, **{option: 0})


@pytest.mark.parametrize("wrong", [torch.eye(3)[0], torch.ones(2, 2).long(), torch.tensor([[1.0, torch.nan]])])
def test_embeddings_of_labels_that_are_no_matrix_are_refused(plain, wrong):
    with pytest.raises(LossError, match=r"label_embeddings must be a matrix of finite numbers, .* Take model.enc"):
        build(plain, wrong)


def test_negatives_are_refused(plain):
    with pytest.raises(LossError, match="must have one column of texts or two, got 3. Negatives are of no use to it"):
        build(plain).compute_loss_from_embeddings([torch.eye(5)] * 3, LABELS)
