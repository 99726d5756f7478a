import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize

import st_plugins
from latent_cases import LEFT, RIGHT, check_export, pool, randomised, tracing
from st_plugins.errors import ShapeError, SizeError
from st_plugins.modules.folded_latent_attention_pooling import FoldedLatentAttentionPooling
from st_plugins.modules.latent_attention_pooling import LatentAttentionPooling


@pytest.fixture
def pooling():
    return randomised(LatentAttentionPooling(6, num_latents=5, num_heads=3, head_dim=4, include_prompt=False).double())


@pytest.fixture
def tokens():
    return torch.randn(3, 6, 6, dtype=torch.float64)


@pytest.mark.parametrize("mask", [RIGHT, LEFT], ids=["right", "left"])
@pytest.mark.parametrize("prompt_length", [0, 2])
def test_it_equals_what_it_was_folded_from(pooling, tokens, mask, prompt_length):
    expected = pool(pooling, tokens, mask, prompt_length=prompt_length)
    folded = pool(pooling.fold(), tokens, mask, prompt_length=prompt_length)
    assert (folded - expected).abs().max() < 1e-12
    assert (expected - tokens.mean(1)).abs().max() > 0.1


@pytest.mark.parametrize(("latents", "heads", "head_dim"), [(1, 1, 1), (7, 2, None), (2, 5, 3)])
def test_it_does_for_other_sizes(tokens, latents, heads, head_dim):
    pooling = LatentAttentionPooling(6, num_latents=latents, num_heads=heads, head_dim=head_dim).double()
    assert (pool(randomised(pooling).fold(), tokens) - pool(pooling, tokens)).abs().max() < 1e-12


def test_by_hand():
    """One head, two latents: its matrices are what the docstring says."""
    pooling = LatentAttentionPooling(2, num_latents=2, num_heads=1, head_dim=1).double()
    attention = pooling.cross_attention
    with torch.no_grad():
        pooling.latents.copy_(torch.tensor([[3e6, 1e6], [1e6, 3e6]]))  # LN_c(Z) = (1, -1), (-1, 1)
        attention.to_queries.weight.copy_(torch.tensor([[2.0, 5.0]]))
        attention.to_keys.weight.copy_(torch.tensor([[3.0, 0.0]]))  # k = 3, -3
        attention.to_values.weight.copy_(torch.tensor([[0.0, 7.0]]))  # v = -7, 7
        attention.to_output.weight.copy_(torch.tensor([[1.0], [2.0]]))
    folded = pooling.fold()
    rows = torch.tensor([[6.0, 15.0], [-6.0, -15.0]], dtype=torch.float64)
    columns = torch.tensor([[-7.0, 7.0], [-14.0, 14.0]], dtype=torch.float64)
    assert torch.allclose(folded.to_scores.weight, rows)
    assert torch.allclose(folded.to_output.weight, columns)


def test_it_has_weights_of_its_own_and_none_to_train(pooling, tokens):
    folded = pooling.train().fold()
    before = pool(folded, tokens, RIGHT)
    with torch.no_grad():
        for parameter in pooling.parameters():
            parameter.add_(1.0)
    assert torch.equal(pool(folded, tokens, RIGHT), before)
    assert not folded.training
    assert not any(parameter.requires_grad for parameter in folded.parameters())


def test_gradients_pass_through_to_the_tokens(pooling, tokens):
    folded = pooling.fold()
    assert torch.autograd.gradcheck(lambda x: pool(folded, x, RIGHT), tokens.requires_grad_(), fast_mode=True)


def test_the_number_of_parameters():
    with torch.device("meta"):
        pooling = FoldedLatentAttentionPooling(4096)
    feed_forward = sum(parameter.numel() for parameter in pooling.feed_forward.parameters())
    attention = sum(parameter.numel() for parameter in pooling.parameters()) - feed_forward
    assert attention == 2 * 8 * 512 * 4096 + 2 * 4096
    assert feed_forward == 201_371_648


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtype_is_kept(pooling, tokens, dtype):
    expected = pool(pooling, tokens, RIGHT)
    folded = pooling.to(dtype).fold()
    assert {parameter.dtype for parameter in folded.parameters()} == {dtype}
    out = pool(folded, tokens.to(dtype), RIGHT)
    assert out.dtype == dtype
    assert torch.cosine_similarity(out.double(), expected).min() > 0.999


@pytest.mark.parametrize("mask", [RIGHT, LEFT], ids=["right", "left"])
def test_padding_may_hold_anything(pooling, tokens, mask):
    folded = pooling.fold()
    expected = pool(folded, tokens, mask)
    assert torch.equal(pool(folded, tokens.masked_fill(mask[..., None] == 0, float("nan")), mask), expected)


def test_a_text_without_pooled_tokens_gives_zeros(pooling, tokens):
    out = pool(pooling.fold(), tokens, RIGHT, prompt_length=4)
    assert out.isfinite().all()
    assert out[:, 0].ne(0).tolist() == [False, True, False]


def test_flattened_inputs_equal_padded_ones(pooling, tokens):
    folded = pooling.fold()
    mask = torch.tensor([[1] * length + [0] * (6 - length) for length in (3, 6, 4)])
    boundaries = torch.tensor([0, 3, 9, 13], dtype=torch.int32)
    flat = pool(folded, tokens[mask == 1][None], cu_seq_lens_q=boundaries, prompt_length=2)
    assert torch.allclose(flat, pool(folded, tokens, mask, prompt_length=2), atol=1e-12)


@pytest.mark.parametrize("name", ["embedding_dimension", "num_latents", "num_heads"])
def test_sizes_that_cannot_be_are_refused(name):
    with pytest.raises(SizeError, match=f"FoldedLatentAttentionPooling needs a positive integer {name}, got 0"):
        FoldedLatentAttentionPooling(**{"embedding_dimension": 4, name: 0})


def test_tokens_of_another_width_are_refused(pooling):
    with pytest.raises(ShapeError, match=r"\(embedding_dimension=6\) needs .* \(batch, tokens, 6\), got \(1, 2, 5\)"):
        pool(pooling.fold(), torch.ones(1, 2, 5))


def test_in_a_model_it_gives_the_same_vectors_saved_and_loaded(plain, texts, tmp_path):
    pooling = LatentAttentionPooling(16, num_latents=4, num_heads=2, include_prompt=False)
    model = SentenceTransformer(modules=[plain[0], pooling, Normalize()], device="cpu").eval()
    folded = SentenceTransformer(modules=[plain[0], pooling.fold(), Normalize()], device="cpu").eval()
    assert folded.get_embedding_dimension() == 16
    expected = model.encode(texts, prompt="it was ")
    assert np.allclose(folded.encode(texts, prompt="it was "), expected, atol=1e-6)
    folded.save_pretrained(tmp_path)
    assert (tmp_path / "1_FoldedLatentAttentionPooling" / "model.safetensors").is_file()
    again = SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    assert np.array_equal(again.encode(texts, prompt="it was "), folded.encode(texts, prompt="it was "))
    assert not any(parameter.requires_grad for parameter in again[1].parameters())
    assert np.array_equal(
        st_plugins.elastic(again).encode(texts, layer=4), st_plugins.elastic(folded).encode(texts, layer=4)
    )


@tracing
@pytest.mark.parametrize("include_prompt", [True, False])
def test_exported_to_onnx_it_gives_the_same(pooling, tmp_path, include_prompt):
    folded = pooling.float().fold()
    folded.include_prompt = include_prompt
    check_export(folded, tmp_path / "pooling.onnx")
