import pytest
import torch
from sentence_transformers import SentenceTransformer

import reference
from saving_cases import check_saved_and_loaded
from st_plugins.errors import NonFiniteError, ShapeError, SizeError
from st_plugins.modules import RelativeRepresentation

CENTER = pytest.mark.parametrize("center", [False, True])


def represented(anchors, embeddings, center=False):
    relative = RelativeRepresentation.from_anchors(anchors, center=center)
    return relative({"sentence_embedding": embeddings})["sentence_embedding"]


def rotation(width, seed=5):
    return torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)).double()).Q


@CENTER
def test_it_is_the_formula_number_by_number(center):
    anchors, embeddings = torch.randn(7, 4), torch.randn(5, 4)
    for row, embedding in zip(represented(anchors, embeddings, center), embeddings.tolist(), strict=True):
        expected = reference.relative_representation(embedding, anchors.tolist(), center)
        assert row.tolist() == pytest.approx(expected, abs=1e-5)


@CENTER
def test_an_anchor_has_a_cosine_of_one_with_itself(center):
    anchors = torch.randn(9, 4).double()
    assert represented(anchors, anchors, center).diagonal().tolist() == pytest.approx([1.0] * 9, abs=1e-12)


def test_anchors_in_another_order_are_coordinates_in_another_order():
    anchors, embeddings, order = torch.randn(9, 4), torch.randn(5, 4), torch.randperm(9)
    assert torch.allclose(represented(anchors[order], embeddings), represented(anchors, embeddings)[:, order])


@CENTER
def test_turning_and_lengthening_a_space_changes_nothing(center):
    anchors, embeddings = torch.randn(20, 8).double(), torch.randn(5, 8).double()
    turn = 3.7 * rotation(8)
    change = represented(anchors @ turn, embeddings @ turn, center) - represented(anchors, embeddings, center)
    assert change.abs().max() < 1e-14


def test_shifting_a_space_changes_it_unless_it_is_centered():
    anchors, embeddings, shift = torch.randn(20, 8).double(), torch.randn(5, 8).double(), torch.randn(8).double()
    for center, most in ((True, 1e-13), (False, None)):
        change = represented(anchors + shift, embeddings + shift, center) - represented(anchors, embeddings, center)
        assert change.abs().max() < most if center else change.abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_embeddings_keep_their_dtype(dtype):
    anchors, embeddings = torch.randn(6, 4), torch.randn(2, 4)
    found = represented(anchors, embeddings.to(dtype))
    assert found.dtype == dtype
    assert torch.allclose(found.float(), represented(anchors, embeddings), atol=2e-2)


def test_zeros_have_no_direction():
    assert represented(torch.randn(3, 4), torch.zeros(1, 4)).tolist() == [[0.0, 0.0, 0.0]]


def test_gradients_reach_the_embeddings():
    anchors = torch.randn(6, 4).double()
    embeddings = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda embeddings: represented(anchors, embeddings, True), (embeddings,))


def test_models_of_different_widths_are_searched_across(plain):
    """The second model is the first one in a wider space, turned there."""
    texts = [f"the {color} {thing} {verb}" for color in ("red", "blue") for thing in ("cat", "dog", "mat", "tree")
             for verb in ("sat", "ran", "was fast")]  # fmt: skip
    anchors = texts[:16]
    first = torch.tensor(plain.encode(texts)).double()
    second = torch.cat([first, torch.zeros(len(texts), 8)], dim=1) @ rotation(24)
    one, other = represented(first[:16], first), represented(second[:16], second)
    assert torch.allclose(one, other, atol=1e-6)
    assert len(anchors) == one.shape[1]


@CENTER
def test_saved_and_loaded(plain, texts, tmp_path, center):
    relative = RelativeRepresentation.from_anchors(plain.encode(texts, convert_to_tensor=True), center=center)
    model = SentenceTransformer(modules=[*plain.children(), relative], device="cpu").eval()
    assert model.get_embedding_dimension() == len(texts)
    check_saved_and_loaded(model, texts, tmp_path / "model")


def test_by_hand_its_anchors_are_the_same_every_time():
    assert torch.equal(RelativeRepresentation(4, 3).anchors, RelativeRepresentation(4, 3).anchors)


def test_what_cannot_be_is_refused():
    for sizes in ((0, 1), (1, 0), (1, True)):
        with pytest.raises(SizeError, match="RelativeRepresentation needs a positive integer"):
            RelativeRepresentation(*sizes)
    for shape in ((4,), (0, 4), (2, 3, 4)):
        with pytest.raises(ShapeError, match=r"anchors must be of shape \(anchors, embedding dimension\), got"):
            RelativeRepresentation.from_anchors(torch.ones(shape))
    with pytest.raises(ShapeError, match=r"shape \(batch, 4\), got \(1, 3\)"):
        represented(torch.ones(2, 4), torch.ones(1, 3))
    with pytest.raises(NonFiniteError, match="this batch of 2 .float32. holds NaN, .* at row 1"):
        RelativeRepresentation.from_anchors(torch.tensor([[1.0], [torch.nan]]))
