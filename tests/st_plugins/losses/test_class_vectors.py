import math

import pytest
import torch

from st_plugins.errors import LossError
from st_plugins.losses.class_vectors import class_means, simplex_vertices


@pytest.mark.parametrize(("classes", "dim"), [(2, 1), (2, 5), (3, 2), (7, 6), (77, 384), (385, 384)])
def test_a_simplex_is_regular(classes, dim):
    vertices = simplex_vertices(classes, dim)
    cosines = vertices @ vertices.T
    expected = torch.full((classes, classes), -1 / (classes - 1)).double().fill_diagonal_(1)
    assert vertices.shape == (classes, dim)
    assert torch.allclose(cosines, expected, atol=1e-13)
    assert vertices.sum(dim=0).abs().max() < 1e-12
    distance = (vertices[0] - vertices[1]).norm().item()
    assert distance == pytest.approx(math.sqrt(2 * classes / (classes - 1)), rel=1e-12)


def test_cut_vertices_are_still_different():
    cut = simplex_vertices(9, 8)[:, :2]
    assert torch.cdist(cut, cut).fill_diagonal_(1).min() > 0.1


@pytest.mark.parametrize("classes", [1, 6])
def test_more_classes_than_a_simplex_has_vertices_are_refused(classes):
    message = f"classes must be from 2 to 5, as a simplex in 4 dimensions has no more vertices, got {classes}. Take"
    with pytest.raises(LossError, match=message):
        simplex_vertices(classes, 4)


def test_the_mean_of_a_class_is_that_of_its_texts():
    rows = torch.randn(5, 3).double()
    means = class_means(rows, torch.tensor([2, 0, 2, 2, 0]), 4)
    assert torch.allclose(means[0], (rows[1] + rows[4]) / 2)
    assert torch.allclose(means[2], (rows[0] + rows[2] + rows[3]) / 3)
    assert means[1].tolist() == means[3].tolist() == [0, 0, 0]


def test_a_word_of_one_definition_is_the_embedding_of_it(plain, texts):
    embeddings = plain.encode(texts, convert_to_tensor=True)
    assert torch.equal(class_means(embeddings, torch.arange(len(texts)), len(texts)), embeddings)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_means_of_many_texts_in_half_precision(dtype):
    rows = (100 + torch.randn(5000, 2)).to(dtype)
    means = class_means(rows, torch.zeros(5000, dtype=torch.long), 1)
    assert means.dtype == dtype
    assert means[0].tolist() == rows.double().mean(dim=0).to(dtype).tolist()


def test_labels_that_are_no_classes_are_refused():
    with pytest.raises(LossError, match="class_means must have labels from 0 to 1, .* got 0 to 2"):
        class_means(torch.ones(3, 2), torch.tensor([0, 1, 2]), 2)
