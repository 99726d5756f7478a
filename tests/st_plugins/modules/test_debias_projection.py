import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer

import reference
from saving_cases import check_saved_and_loaded
from st_plugins.errors import InputError, NonFiniteError, ShapeError, SizeError
from st_plugins.modules import DebiasProjection


def projected(debias, embeddings):
    return debias({"sentence_embedding": embeddings})["sentence_embedding"]


def random_projection(width=6, count=2, dtype=torch.float64):
    torch.manual_seed(2)
    return DebiasProjection.from_sets(torch.randn(10, 2, width, dtype=dtype), count)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_it_is_the_formula_number_by_number(count):
    debias, embeddings = random_projection(count=count), torch.randn(5, 6).double()
    for row, embedding in zip(projected(debias, embeddings), embeddings.tolist(), strict=True):
        assert row.tolist() == pytest.approx(reference.neutralized(embedding, debias.directions.tolist()), abs=1e-12)


@pytest.mark.parametrize("count", [1, 3])
def test_nothing_is_left_in_the_directions(count):
    debias = random_projection(count=count)
    found = projected(debias, torch.randn(20, 6).double())
    assert (found @ debias.directions.T).abs().max() < 1e-14
    assert found.norm(dim=-1).tolist() == pytest.approx([1.0] * 20)
    assert torch.allclose(projected(debias, found), found, atol=1e-14)


def test_directions_are_orthonormal_and_of_one_sign():
    directions = random_projection(count=3).directions
    assert torch.allclose(directions @ directions.T, torch.eye(3).double(), atol=1e-14)
    assert all(row[row.abs().argmax()] > 0 for row in directions)


def test_the_direction_is_the_first_principal_one_of_the_differences():
    """Of pairs it is that of the differences of their ends; found here by power iteration."""
    pairs = torch.randn(12, 2, 4).double()
    units = F.normalize(pairs, dim=-1)
    differences = units[:, 0] - units[:, 1]
    vector = torch.ones(4).double()
    for _ in range(5000):
        vector = F.normalize(differences.T @ (differences @ vector), dim=0)
    found = DebiasProjection.from_sets(pairs).directions[0]
    assert abs(float(found @ vector)) == pytest.approx(1, abs=1e-9)
    assert torch.allclose(DebiasProjection.from_sets(pairs.flip(1)).directions[0], found, atol=1e-12)


def test_sets_of_several_sizes_count_alike():
    """What all members of a set have in common says nothing; a set counts by its members' mean square."""
    east, north = torch.eye(3).double()[:2]
    base = 3 * torch.eye(3).double()[2]
    sets = [torch.stack([base + east, base - east]), torch.stack([base + north, base - north] * 2)]
    values = DebiasProjection.from_sets([sets[0], sets[0], sets[1]]).directions[0]
    assert torch.allclose(values, east, atol=1e-12), "two pairs against one set of four"


@pytest.mark.parametrize("seed", range(3))
def test_both_ends_of_an_equalized_pair_are_alike_to_neutral_texts(seed):
    torch.manual_seed(seed)
    debias, pair = random_projection(count=1), torch.randn(2, 6).double()
    ends = debias.equalize(pair)
    expected = reference.equalized(*pair.tolist(), debias.directions[0].tolist())
    assert ends.flatten().tolist() == pytest.approx([x for row in expected for x in row], abs=1e-12)
    assert ends.norm(dim=-1).tolist() == pytest.approx([1.0, 1.0])
    neutral = projected(debias, torch.randn(20, 6).double())
    assert (neutral @ ends[0] - neutral @ ends[1]).abs().max() < 1e-14


def test_a_set_is_equalized_in_a_subspace():
    debias = random_projection(count=2)
    members = debias.equalize(torch.randn(4, 6).double())
    inside = members @ debias.directions.T
    assert inside.norm(dim=-1).tolist() == pytest.approx([float(inside[0].norm())] * 4)
    outside = members - inside @ debias.directions
    assert torch.allclose(outside, outside[:1].expand(4, -1), atol=1e-14)
    assert members.norm(dim=-1).tolist() == pytest.approx([1.0] * 4)


def test_what_lies_in_the_directions_becomes_zeros():
    assert projected(DebiasProjection(3), torch.tensor([[2.0, 0.0, 0.0]])).tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_embeddings_keep_their_dtype(dtype):
    debias, embeddings = random_projection(dtype=torch.float32), torch.randn(5, 6)
    found = projected(debias, embeddings.to(dtype))
    assert found.dtype == dtype
    assert torch.allclose(found.float(), projected(debias, embeddings), atol=2e-2)


def test_gradients_equal_finite_differences():
    embeddings = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    debias = random_projection()
    assert torch.autograd.gradcheck(lambda embeddings: projected(debias, embeddings), (embeddings,))


def test_saved_and_loaded(plain, texts, tmp_path):
    pairs = plain.encode(["the cat ran", "the dog ran", "a cat sat", "a dog sat"], convert_to_tensor=True)
    debias = DebiasProjection.from_sets(pairs.unflatten(0, (2, 2)), 2)
    model = SentenceTransformer(modules=[*plain.children(), debias], device="cpu").eval()
    assert model.get_embedding_dimension() == 16
    vectors = check_saved_and_loaded(model, texts, tmp_path / "model")
    assert np.abs(vectors @ debias.directions.numpy().T).max() < 1e-6


def test_what_cannot_be_is_refused():
    for sizes in ((0, 1), (4, 0), (True, 1)):
        with pytest.raises(SizeError, match="DebiasProjection needs a positive integer"):
            DebiasProjection(*sizes)
    with pytest.raises(SizeError, match="fewer directions than coordinates, got num_directions=4 and"):
        DebiasProjection(4, 4)
    with pytest.raises(ShapeError, match=r"embeddings of at least two texts, .* got \(1, 3\)"):
        DebiasProjection.from_sets([torch.ones(2, 3), torch.ones(1, 3)])
    with pytest.raises(SizeError, match="at least num_directions=2 directions, they differ in 1"):
        DebiasProjection.from_sets(torch.eye(3)[None, :2], 2)
    with pytest.raises(SizeError, match="at least num_directions=1 directions, they differ in 0"):
        DebiasProjection.from_sets(torch.ones(2, 2, 3))
    with pytest.raises(InputError, match="got one that is where their mean is"):
        DebiasProjection(3).equalize(torch.tensor([[1.0, 1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]))
    with pytest.raises(ShapeError, match=r"shape \(batch, 4\), got \(1, 3\)"):
        projected(DebiasProjection(4), torch.ones(1, 3))
    with pytest.raises(NonFiniteError, match="this batch of 2 .float32. holds NaN, .* at row 1"):
        DebiasProjection.from_sets([torch.tensor([[0.0, 1.0], [torch.nan, 1.0]])])
    with pytest.raises(ShapeError, match="must be at least one set of embeddings, got none"):
        DebiasProjection.from_sets([])
