from statistics import NormalDist

import pytest
import torch
from sentence_transformers import SentenceTransformer

import reference
from saving_cases import check_saved_and_loaded
from st_plugins.errors import NonFiniteError, ShapeError, SizeError
from st_plugins.modules import RobustNormalizer


def normalized(normalizer, embeddings):
    return normalizer({"sentence_embedding": embeddings})["sentence_embedding"]


@pytest.mark.parametrize("clip_quantile", [None, 0.1])
@pytest.mark.parametrize("count", [1, 2, 8, 9])
def test_it_is_the_formula_number_by_number(count, clip_quantile):
    embeddings = torch.randn(count, 3).double() * 5 + 2
    found = normalized(RobustNormalizer.fitted(embeddings, clip_quantile=clip_quantile), embeddings)
    for column, values in zip(embeddings.T.tolist(), found.T.tolist(), strict=True):
        assert values == pytest.approx(reference.robust_normalization(column, clip_quantile), abs=1e-12)


def test_the_scale_is_the_deviation_of_normal_numbers():
    exact = torch.tensor([NormalDist(3, 2).inv_cdf((i + 0.5) / 10_001) for i in range(10_001)]).double()[:, None]
    normalizer = RobustNormalizer.fitted(exact)
    assert float(normalizer.median) == pytest.approx(3)
    assert float(normalizer.scale) == pytest.approx(2, rel=1e-3)
    # The public code takes quarters of a percent for quarters: what it divides by is another number.
    shares = [reference.quantile(exact[:, 0].tolist(), share) for share in (0.0025, 0.0075, 0.25, 0.75)]
    assert (shares[1] - shares[0]) / (shares[3] - shares[2]) == pytest.approx(0.28, abs=0.01)


def test_one_huge_number_moves_neither_middle_nor_spread():
    embeddings = torch.randn(1001, 2)
    before = RobustNormalizer.fitted(embeddings)
    embeddings[0, 1] = 1e6
    after = RobustNormalizer.fitted(embeddings)
    assert torch.allclose(after.scale, before.scale, rtol=1e-2)
    assert torch.allclose(after.median, before.median, atol=1e-2)


def test_the_inverse_gives_the_embeddings_back():
    embeddings = torch.randn(30, 4).double() * torch.tensor([0.01, 1.0, 50.0, 3.0]) + 7
    normalizer = RobustNormalizer.fitted(embeddings)
    other = torch.randn(2, 3, 4).double()
    assert torch.allclose(normalizer.inverse(normalized(normalizer, other)), other, atol=1e-12)
    assert torch.allclose(normalized(normalizer, normalizer.inverse(other)), other, atol=1e-12)


def test_what_is_clipped_comes_back_as_its_bound():
    embeddings = torch.arange(101.0)[:, None]
    normalizer = RobustNormalizer.fitted(embeddings, clip_quantile=0.1)
    found = normalizer.inverse(normalized(normalizer, torch.tensor([[-1e9], [10.0], [50.0], [1e9]])))
    assert found.flatten().tolist() == pytest.approx([10, 10, 50, 90])


def test_a_constant_coordinate_is_centered_and_left_as_long_as_it_is():
    normalizer = RobustNormalizer.fitted(torch.tensor([[5.0], [5.0], [5.0]]))
    assert normalized(normalizer, torch.tensor([[7.0]])).tolist() == [[2.0]]


@pytest.mark.parametrize("clip_quantile", [None, 1e-4])
def test_by_hand_it_changes_nothing(clip_quantile):
    embeddings = torch.randn(3, 4)
    assert torch.equal(normalized(RobustNormalizer(4, clip_quantile=clip_quantile), embeddings), embeddings)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_is_kept(dtype):
    embeddings = torch.randn(50, 4).to(dtype)
    normalizer = RobustNormalizer.fitted(embeddings)
    assert normalizer.scale.dtype == torch.promote_types(dtype, torch.float32)
    assert normalized(normalizer, embeddings).dtype == dtype
    assert normalizer.inverse(embeddings).dtype == dtype


@pytest.mark.slow
def test_more_numbers_than_quantiles_of_torch_can_take():
    embeddings = torch.randn(17_000, 1024)
    normalizer = RobustNormalizer.fitted(embeddings)
    assert torch.allclose(normalizer.median, embeddings.median(dim=0).values, atol=1e-3)


@pytest.mark.parametrize("clip_quantile", [None, 0.1])
def test_saved_and_loaded(plain, texts, tmp_path, clip_quantile):
    normalizer = RobustNormalizer.fitted(plain.encode(texts, convert_to_tensor=True), clip_quantile=clip_quantile)
    model = SentenceTransformer(modules=[*plain.children(), normalizer], device="cpu").eval()
    assert model.get_embedding_dimension() == 16
    check_saved_and_loaded(model, texts, tmp_path / "model")


def test_what_cannot_be_is_refused():
    with pytest.raises(SizeError, match="RobustNormalizer needs a positive integer embedding_dimension, got 0"):
        RobustNormalizer(0)
    for share in (0, 0.5, -1, 25):
        with pytest.raises(SizeError, match="needs a clip_quantile between 0 and 0.5, or None, got"):
            RobustNormalizer(2, clip_quantile=share)
    for shape in ((4,), (0, 4)):
        with pytest.raises(ShapeError, match=r"embeddings must be of shape \(texts, embedding dimension\), got"):
            RobustNormalizer.fitted(torch.ones(shape))
    with pytest.raises(ShapeError, match=r"shape \(batch, 4\), got \(1, 3\)"):
        normalized(RobustNormalizer(4), torch.ones(1, 3))
    with pytest.raises(NonFiniteError, match="this batch of 2 .float32. holds NaN, .* at row 1"):
        RobustNormalizer.fitted(torch.tensor([[0.0], [torch.nan]]))
