import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from st_plugins.errors import ShapeError, SizeError, UntrainedSizeError
from st_plugins.modules import Truncation


def test_a_fixed_dim_by_hand():
    features = Truncation(2)({"sentence_embedding": torch.tensor([[3.0, 4.0, 12.0]])})
    assert torch.allclose(features["sentence_embedding"], torch.tensor([[0.6, 0.8]]))


def test_without_a_dim_full_vectors_pass_unchanged():
    x = torch.randn(3, 8)
    assert Truncation()({"sentence_embedding": x})["sentence_embedding"] is x


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_dtype_is_kept(dtype):
    out = Truncation(3)({"sentence_embedding": torch.randn(2, 8).to(dtype)})["sentence_embedding"]
    assert out.dtype == dtype
    assert torch.allclose(out.float().norm(dim=-1), torch.ones(2), atol=1e-2)


def test_gradients_pass_through():
    x = torch.randn(2, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: Truncation(3)({"sentence_embedding": v})["sentence_embedding"], x)


def test_the_hosts_truncate_dim_gives_unit_vectors(model, texts):
    full = model.encode(texts)
    cut = model.encode(texts, truncate_dim=5, allow_untrained=True)
    expected = full[:, :5] / np.linalg.norm(full[:, :5], axis=1, keepdims=True)
    assert np.allclose(cut, expected, atol=1e-6)


def test_the_hosts_other_ways_to_truncate_do_so_too(model, texts):
    expected = model.encode(texts, truncate_dim=5, allow_untrained=True)
    with model.truncate_embeddings(5):
        assert np.array_equal(model.encode(texts, allow_untrained=True), expected)
    model.truncate_dim = 5
    assert np.array_equal(model.encode(texts, allow_untrained=True), expected)
    assert model.get_embedding_dimension() == 5


def test_a_wider_cut_than_the_embedding_changes_nothing(model, texts):
    assert np.array_equal(model.encode(texts, truncate_dim=99), model.encode(texts))


def test_an_untrained_dim_is_refused_by_name(model, texts):
    model[0].add_sizes([(4, 8), (2, 4)])
    assert model.encode(texts, truncate_dim=8).shape == (5, 8)
    with pytest.raises(UntrainedSizeError, match=r"trained for at this layer, \[8, 16\], got 4"):
        model.encode(texts, truncate_dim=4)
    assert model.encode(texts, layer=2, truncate_dim=4).shape == (5, 4)


def test_nothing_left_is_refused(model, texts):
    with pytest.raises(SizeError, match="truncate_dim must be an integer from 1 to 16, it left 0 coordinates"):
        model.encode(texts, truncate_dim=0, allow_untrained=True)


@pytest.mark.parametrize("dim", [0, -3, 2.0, True, "4"])
def test_a_dim_that_cannot_be_is_refused(dim):
    with pytest.raises(SizeError, match="Truncation needs a positive integer dim or None, got"):
        Truncation(dim)


def test_a_too_narrow_embedding_is_refused():
    with pytest.raises(ShapeError, match=r"Truncation\(dim=9\) needs .* \(batch, 9 or more\), got \(1, 8\)"):
        Truncation(9)({"sentence_embedding": torch.randn(1, 8)})


def test_saved_and_loaded(plain, texts, tmp_path):
    plain.append(Truncation(6))
    plain.save_pretrained(tmp_path)
    again = SentenceTransformer(str(tmp_path), trust_remote_code=True)
    assert again[-1].dim == 6
    assert again.get_embedding_dimension() == 6
    assert np.array_equal(again.encode(texts), plain.encode(texts))
