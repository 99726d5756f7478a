import math

import pytest
import torch
import torch.nn.functional as F
from sentence_transformers.util import cos_sim, dot_score

import reference
from st_plugins.errors import LossError
from st_plugins.losses import simplex_vertices
from st_plugins.losses.fixed_vector_cross_entropy import FixedVectorCrossEntropyLoss

LABELS = torch.tensor([0, 4, 2, 2])


def build(model, class_vectors=None, **options):
    return FixedVectorCrossEntropyLoss(model, torch.randn(5, 16) if class_vectors is None else class_vectors, **options)


@pytest.mark.parametrize(("similarity", "slow"), [(cos_sim, reference.cosine), (dot_score, reference.dot)])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_the_value_is_that_of_the_formula(plain, similarity, slow, scale):
    vectors, texts = torch.randn(5, 16).double(), torch.randn(4, 16).double()
    loss = build(plain, vectors, scale=scale, similarity_fct=similarity)
    expected = reference.fixed_vector_cross_entropy(texts.tolist(), LABELS.tolist(), vectors.tolist(), scale, slow)
    assert loss.compute_loss_from_embeddings([texts], LABELS).item() == pytest.approx(expected, rel=1e-12)


def test_with_the_axes_as_class_vectors_it_is_ordinary_softmax_regression(plain):
    texts = torch.randn(4, 16)
    loss = build(plain, torch.eye(16), scale=1.0, similarity_fct=dot_score)
    assert torch.allclose(loss.compute_loss_from_embeddings([texts], LABELS), F.cross_entropy(texts, LABELS))


def test_equal_similarities_give_the_logarithm_of_the_classes(plain):
    loss = build(plain, simplex_vertices(17, 16))
    value = loss.compute_loss_from_embeddings([torch.zeros(4, 16)], LABELS)
    assert value.item() == pytest.approx(math.log(17))


def test_texts_on_their_vertices_are_as_good_as_it_gets(plain):
    """A simplex is its own optimum: no other place has a lower loss, and the gradient along the sphere is 0."""
    vertices = simplex_vertices(6, 16)
    loss = build(plain, vertices, scale=3.0)
    texts = vertices[LABELS].clone().requires_grad_()
    value = loss.compute_loss_from_embeddings([texts], LABELS)
    value.backward()
    assert texts.grad.abs().max() < 1e-12
    assert value.item() == pytest.approx(math.log(1 + 5 * math.exp(-3 * 6 / 5)), rel=1e-12)


def test_the_class_vectors_are_a_copy_without_a_gradient(plain):
    vectors = torch.randn(5, 16, requires_grad=True)
    loss = build(plain, vectors)
    texts = torch.randn(4, 16, requires_grad=True)
    loss.compute_loss_from_embeddings([texts], LABELS).backward()
    assert vectors.grad is None
    assert texts.grad.abs().max() > 0
    before = loss.class_vectors.clone()
    with torch.no_grad():
        vectors.zero_()
    assert torch.equal(loss.class_vectors, before)
    assert loss.state_dict().keys() == {f"model.{name}" for name in plain.state_dict()}


def test_cut_embeddings_meet_class_vectors_cut_alike(plain):
    vectors, texts = torch.randn(5, 16), torch.randn(4, 16)
    cut = build(plain, vectors).compute_loss_from_embeddings([texts[:, :6]], LABELS)
    expected = F.cross_entropy(20 * cos_sim(texts[:, :6], vectors[:, :6]), LABELS)
    assert torch.allclose(cut, expected)


def test_class_vectors_of_another_width_are_refused(plain):
    for wrong in (torch.randn(5, 8), torch.randn(16), torch.full((5, 16), torch.inf)):
        with pytest.raises(LossError, match=r"class_vectors must be finite numbers of shape \(classes, 16\), as wide"):
            build(plain, wrong)


def test_a_scale_that_is_not_positive_and_several_columns_are_refused(plain):
    with pytest.raises(LossError, match="scale must be > 0, got 0"):
        build(plain, scale=0)
    with pytest.raises(LossError, match="must have one column of texts, got 2. Give each text a row and a label of"):
        build(plain).compute_loss_from_embeddings([torch.ones(4, 16)] * 2, LABELS)
