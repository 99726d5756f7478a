import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from torch import nn

import reference
import st_plugins
from latent_cases import LEFT, RIGHT, check_export, pool, randomised, tracing
from st_plugins.errors import ShapeError, SizeError
from st_plugins.losses import ElasticLoss
from st_plugins.modules.latent_attention_pooling import LatentAttentionPooling


@pytest.fixture
def pooling():
    return randomised(LatentAttentionPooling(6, num_latents=5, num_heads=3, head_dim=4).double())


@pytest.fixture
def tokens():
    return torch.randn(3, 6, 6, dtype=torch.float64)


def by_letters(pooling):
    attention, feed_forward = pooling.cross_attention, pooling.feed_forward
    norms = {"LN_q": attention.query_norm, "LN_c": attention.context_norm, "LN_f": feed_forward.norm}
    matrices = {
        "Z": pooling.latents,
        "W_q": attention.to_queries.weight,
        "W_k": attention.to_keys.weight,
        "W_v": attention.to_values.weight,
        "W_o": attention.to_output.weight,
        "W_1": feed_forward.expand.weight,
        "b_1": feed_forward.expand.bias,
        "W_2": feed_forward.contract.weight,
        "b_2": feed_forward.contract.bias,
    }
    return {name: matrix.tolist() for name, matrix in matrices.items()} | {
        name: (norm.weight.tolist(), norm.bias.tolist()) for name, norm in norms.items()
    }


def masked_means(tokens, mask):
    kept = mask[..., None].to(tokens.dtype)
    return (tokens * kept).sum(1) / kept.sum(1)


@pytest.mark.parametrize("mask", [RIGHT, LEFT], ids=["right", "left"])
def test_the_formula_token_by_token(pooling, tokens, mask):
    expected = reference.latent_attention_pooling(tokens.tolist(), mask.tolist(), by_letters(pooling), head_dim=4)
    assert torch.allclose(pool(pooling, tokens, mask), torch.tensor(expected, dtype=torch.float64), atol=1e-12)


def test_by_hand():
    """D = 2, one latent, one head of one dimension: the softmax is 1, and LN(x) of (3, 1) is (1, -1) but for eps."""
    pooling = LatentAttentionPooling(2, num_latents=1, num_heads=1, head_dim=1).double()
    for name, parameter in pooling.named_parameters():
        nn.init.ones_(parameter) if "norm.weight" in name else nn.init.zeros_(parameter)
    with torch.no_grad():
        pooling.latents.copy_(torch.tensor([[3e6, 1e6]]))  # LN_c(Z) = (1, -1)
        pooling.cross_attention.to_values.weight.copy_(torch.tensor([[2.0, 0.0]]))  # v = 2
        pooling.cross_attention.to_output.weight.copy_(torch.tensor([[0.5], [-1.0]]))  # y = x + (1, -2)
        pooling.feed_forward.expand.bias[0] = 3.0  # a_1 = 3
        pooling.feed_forward.expand.bias[8] = 1.0  # g_1 = 1, GELU(1) = 0.8413447
        pooling.feed_forward.contract.weight[0, 0] = 1.0
    out = pool(pooling, torch.tensor([[[10.0, 20.0], [20.0, 40.0]]], dtype=torch.float64))
    assert torch.allclose(out, torch.tensor([[15 + 1 + 3 * 0.8413447460685429, 30 - 2.0]], dtype=torch.float64))


def test_no_order_of_tokens_matters(pooling, tokens):
    shuffled = torch.randperm(6)
    once = pool(pooling, tokens, RIGHT)
    assert torch.allclose(pool(pooling, tokens[:, shuffled], RIGHT[:, shuffled]), once, atol=1e-12)


def test_tokens_are_mixed_by_the_mean_only(pooling, tokens):
    """Of pools of single tokens the mean is the pool of all: any number of tokens may be computed at a time."""
    alone = pool(pooling, tokens[:1].transpose(0, 1))  # six texts of one token
    assert torch.allclose(pool(pooling, tokens[:1])[0], alone.mean(0), atol=1e-12)


@pytest.mark.parametrize("mask", [RIGHT, LEFT], ids=["right", "left"])
def test_padding_may_hold_anything(pooling, tokens, mask):
    expected = pool(pooling, tokens, mask)
    for content in (1e30, float("nan"), float("inf")):
        filled = tokens.masked_fill(mask[..., None] == 0, content)
        assert torch.equal(pool(pooling, filled, mask), expected)


def test_starting_as_mean_it_is_the_mean(tokens):
    pooling = LatentAttentionPooling(6, num_latents=5, num_heads=2, starts_as_mean=True).double()
    assert torch.equal(pool(pooling, tokens, RIGHT), masked_means(tokens, RIGHT))
    other = LatentAttentionPooling(6, num_latents=5, num_heads=2).double()
    assert not torch.allclose(pool(other, tokens, RIGHT), masked_means(tokens, RIGHT), atol=1e-3)


def test_starting_as_mean_three_parameters_learn_first(tokens):
    pooling = LatentAttentionPooling(6, num_latents=5, num_heads=2, starts_as_mean=True).double()
    pool(pooling, tokens, RIGHT).pow(2).sum().backward()
    learning = {name for name, parameter in pooling.named_parameters() if parameter.grad.abs().max() > 0}
    assert learning == {
        "cross_attention.to_output.weight",
        "feed_forward.contract.weight",
        "feed_forward.contract.bias",
    }


def test_without_queries_every_token_gets_the_same(pooling, tokens):
    nn.init.zeros_(pooling.cross_attention.to_queries.weight)
    nn.init.zeros_(pooling.feed_forward.contract.weight)
    nn.init.zeros_(pooling.feed_forward.contract.bias)
    attention = pooling.cross_attention
    constant = attention.to_output(attention.to_values(attention.context_norm(pooling.latents)).mean(0))
    assert torch.allclose(pool(pooling, tokens, RIGHT), masked_means(tokens, RIGHT) + constant, atol=1e-12)


@pytest.mark.parametrize(("dim", "latents", "heads", "head_dim"), [(6, 5, 3, 4), (4, 7, 2, None), (4096, 512, 8, None)])
def test_the_number_of_parameters(dim, latents, heads, head_dim):
    with torch.device("meta"):
        pooling = LatentAttentionPooling(dim, num_latents=latents, num_heads=heads, head_dim=head_dim)
    inner = heads * (head_dim or dim)
    count = sum(parameter.numel() for parameter in pooling.parameters())
    assert count == latents * dim + 4 * dim * inner + 6 * dim + (8 * dim**2 + 8 * dim) + (4 * dim**2 + dim)
    assert count == 740_356_096 or dim != 4096


def test_latents_start_as_standard_normal_numbers():
    latents = LatentAttentionPooling(16, num_latents=4000).latents.detach()
    assert abs(float(latents.mean())) < 0.02
    assert abs(float(latents.std()) - 1) < 0.02


def test_gradients_are_the_finite_differences(pooling, tokens):
    parameters = dict(pooling.named_parameters())

    def pooled(x, *values):
        features = {"token_embeddings": x, "attention_mask": RIGHT}
        changed = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(pooling, changed, (features,))["sentence_embedding"]

    inputs = (tokens.requires_grad_(), *parameters.values())
    assert torch.autograd.gradcheck(pooled, inputs, fast_mode=True)


def test_a_text_without_pooled_tokens_gives_zeros(pooling, tokens):
    mask = RIGHT.clone()
    mask[1] = 0
    out = pool(pooling, tokens, mask)
    assert torch.equal(out[1], torch.zeros(6, dtype=torch.float64))
    pooling.include_prompt = False
    out = pool(pooling, tokens, RIGHT, prompt_length=4)
    assert out.isfinite().all()
    assert out[:, 0].ne(0).tolist() == [False, True, False]


@pytest.mark.parametrize("mask", [RIGHT, LEFT], ids=["right", "left"])
@pytest.mark.parametrize(
    "length", [3, torch.tensor([3]), torch.tensor([3, 3, 3]), torch.tensor(3)], ids=["int", "one", "rows", "scalar"]
)
def test_the_prompt_is_left_out_of_the_mean(pooling, tokens, mask, length):
    mask = mask.clone()
    mask[2] = 1
    kept = mask.clone()
    for row in kept:
        row[torch.nonzero(row).flatten()[:3]] = 0
    assert torch.equal(pool(pooling, tokens, mask, prompt_length=length), pool(pooling, tokens, mask))
    pooling.include_prompt = False
    before = mask.clone()
    assert torch.allclose(pool(pooling, tokens, mask, prompt_length=length), pool(pooling, tokens, kept), atol=1e-12)
    assert torch.equal(mask, before)


@pytest.mark.parametrize("prompt_length", [None, 2])
def test_flattened_inputs_equal_padded_ones(pooling, tokens, prompt_length):
    pooling.include_prompt = False
    lengths = [3, 6, 4]
    mask = torch.tensor([[1] * length + [0] * (6 - length) for length in lengths])
    extra = {} if prompt_length is None else {"prompt_length": prompt_length}
    flat = tokens[mask == 1][None]  # (1, 13, 6)
    boundaries = torch.tensor([0, 3, 9, 13], dtype=torch.int32)
    assert torch.allclose(
        pool(pooling, flat, cu_seq_lens_q=boundaries, **extra), pool(pooling, tokens, mask, **extra), atol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_dtype_and_is_accumulated_in_single(dtype):
    single = randomised(LatentAttentionPooling(6, num_latents=5, num_heads=3, starts_as_mean=True))
    nn.init.zeros_(single.feed_forward.contract.bias)
    # 4096 ones and one token of 4096: in half precision the sum would stay at 4096, the mean at 1.
    tokens = torch.ones(1, 4097, 6, dtype=dtype)
    tokens[:, 0] = 4096
    out = pool(single.to(dtype), tokens)
    assert out.dtype == dtype
    assert torch.allclose(out.float(), torch.full((1, 6), 8192 / 4097), rtol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close_to_single(dtype):
    pooling = LatentAttentionPooling(64, num_latents=32, num_heads=4)
    tokens = torch.randn(3, 6, 64).to(dtype)
    expected = pool(pooling, tokens.float(), RIGHT)
    out = pool(pooling.to(dtype), tokens, RIGHT)
    assert torch.cosine_similarity(out.float(), expected).min() > 0.9995


def test_without_a_mask_all_tokens_are_pooled(pooling, tokens):
    assert torch.equal(pool(pooling, tokens), pool(pooling, tokens, torch.ones(3, 6)))


@pytest.mark.parametrize("name", ["embedding_dimension", "num_latents", "num_heads", "head_dim"])
@pytest.mark.parametrize("size", [0, -1, 2.0, True, "4"])
def test_sizes_that_cannot_be_are_refused(name, size):
    sizes = {"embedding_dimension": 4, "num_latents": 3, "num_heads": 2, "head_dim": 2, name: size}
    with pytest.raises(SizeError, match=f"LatentAttentionPooling needs a positive integer {name}, got"):
        LatentAttentionPooling(**sizes)


def test_tokens_of_another_width_are_refused(pooling):
    with pytest.raises(ShapeError, match=r"\(embedding_dimension=6\) needs .* \(batch, tokens, 6\), got \(1, 2, 5\)"):
        pool(pooling, torch.ones(1, 2, 5))


def test_a_mask_for_other_tokens_is_refused(pooling, tokens):
    with pytest.raises(ShapeError, match=r"one entry for each token, \(3, 6\), got \(3, 5\)"):
        pool(pooling, tokens, RIGHT[:, :5])


def with_latents(plain, **options):
    pooling = LatentAttentionPooling(16, num_latents=4, num_heads=2, **options)
    return SentenceTransformer(modules=[plain[0], pooling, Normalize()], device="cpu").eval()


def test_in_a_model_a_text_does_not_depend_on_its_batch(plain, texts):
    model = with_latents(plain)
    assert model.get_embedding_dimension() == 16
    alone = np.stack([model.encode(text) for text in texts])
    assert np.allclose(model.encode(texts), alone, atol=1e-6)


def test_grafted_on_a_model_with_prompts_it_gives_the_hosts_vectors(plain, texts):
    for include_prompt in (True, False):
        host = SentenceTransformer(modules=[plain[0], Pooling(16, include_prompt=include_prompt)], device="cpu").eval()
        ours = with_latents(plain, starts_as_mean=True, include_prompt=include_prompt)
        expected = host.encode(texts, prompt="a red cat ", normalize_embeddings=True)
        assert np.allclose(ours.encode(texts, prompt="a red cat "), expected, atol=1e-6)


def test_saved_and_loaded(plain, texts, tmp_path):
    model = with_latents(plain, head_dim=3, include_prompt=False)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "1_LatentAttentionPooling" / "model.safetensors").is_file()
    again = SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    sizes = {"embedding_dimension": 16, "num_latents": 4, "num_heads": 2, "head_dim": 3, "include_prompt": False}
    assert again[1].get_config_dict() == sizes
    assert np.array_equal(again.encode(texts, prompt="it was "), model.encode(texts, prompt="it was "))


def test_it_pools_every_layer_of_an_elastic_model(plain, texts):
    model = st_plugins.elastic(with_latents(plain, include_prompt=False))
    features = model.preprocess(texts, prompt="a red cat ")
    with torch.no_grad():
        stacked = model({**features, "layers": (1, 4)})["sentence_embedding"].unflatten(0, (2, -1))
    for index, layer in enumerate((1, 4)):
        alone = model.encode(texts, prompt="a red cat ", layer=layer, allow_untrained=True)
        assert np.allclose(stacked[index], alone, atol=1e-5)


def test_a_few_steps_through_an_elastic_loss_lower_it(plain):
    model = st_plugins.elastic(with_latents(plain, starts_as_mean=True)).train()
    loss = ElasticLoss(model, MultipleNegativesRankingLoss(model), sizes=[(2, 16)])
    columns = [model.preprocess(["the cat", "a dog", "red tree"]), model.preprocess(["it sat", "it ran", "is fast"])]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    values = []
    for _ in range(8):
        parts = loss([dict(column) for column in columns], None)
        value = sum(parts.values()) if isinstance(parts, dict) else parts
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < values[0]
    assert all(parameter.grad is not None for parameter in model[1].parameters())


@tracing
@pytest.mark.parametrize("include_prompt", [True, False])
def test_exported_to_onnx_it_gives_the_same(tmp_path, include_prompt):
    pooling = LatentAttentionPooling(6, num_latents=5, num_heads=3, head_dim=4, include_prompt=include_prompt)
    check_export(randomised(pooling).eval(), tmp_path / "pooling.onnx")
