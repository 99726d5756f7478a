import math

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

import reference
from pooling_cases import flattened, graph_outputs, losses_around_training, padded
from st_plugins.errors import ShapeError, SizeError
from st_plugins.modules.attention_pooling import AttentionPooling

LENGTHS = (4, 1, 6)


def drawn(width=6, **options):
    """In double precision, with weights that are far from uniform."""
    pooling = AttentionPooling(width, **{"num_heads": 3, "rank": 2, **options}).double()
    for parameter in pooling.parameters():
        torch.nn.init.normal_(parameter)
    return pooling


def texts_of(width=6, lengths=LENGTHS):
    return [torch.randn(length, width, dtype=torch.float64) for length in lengths]


def embed(pooling, tokens, mask=None, **more):
    features = {"token_embeddings": tokens, **({} if mask is None else {"attention_mask": mask}), **more}
    return pooling(features)["sentence_embedding"]


@pytest.fixture
def attentive(plain):
    """The plain model with attention pooling in place of the mean."""
    return SentenceTransformer(modules=[plain[0], AttentionPooling(16), Normalize()], device="cpu").eval()


def test_it_is_the_formula():
    pooling, texts = drawn(), texts_of()
    factors = pooling.text_factors.tolist(), pooling.token_factors.tolist()
    expected = [reference.attention_pooling(text.tolist(), *factors) for text in texts]
    assert torch.allclose(embed(pooling, *padded(texts)), torch.tensor(expected, dtype=torch.float64), atol=1e-12)


def test_two_tokens_by_hand():
    pooling = AttentionPooling(2, num_heads=2, rank=1)
    with torch.no_grad():
        # The mean is (2, 2), so P c = 1 and the scores of the first head are 0 and log 3; the second head is uniform.
        pooling.text_factors.copy_(torch.tensor([[[0.5, 0.0]], [[0.0, 0.0]]]))
        pooling.token_factors.copy_(torch.tensor([[[0.0, math.log(3) / 4]], [[1.0, 1.0]]]))
    found = embed(pooling, torch.tensor([[[1.0, 0.0], [3.0, 4.0]]]))
    assert torch.allclose(found, (torch.tensor([[2.5, 3.0]]) + torch.tensor([[2.0, 2.0]])) / 2)


def test_it_starts_as_mean_pooling(plain, attentive, texts):
    assert np.allclose(attentive.encode(texts), plain.encode(texts), atol=1e-6)
    pooling = AttentionPooling(6).double()
    embed(pooling, *padded(texts_of())).pow(2).sum().backward()
    assert pooling.text_factors.grad.abs().max() > 1e-3


def test_or_with_weights_of_its_own():
    pooling = AttentionPooling(6, starts_as_mean=False).double()
    tokens, mask = padded(texts_of())
    found = embed(pooling, tokens, mask)
    assert not torch.allclose(found[0], tokens[0, :4].mean(0), atol=1e-3)
    found.pow(2).sum().backward()
    assert all(parameter.grad.abs().max() > 1e-3 for parameter in pooling.parameters())


@pytest.mark.parametrize("heads", [1, 5])
def test_the_vector_lies_among_the_tokens(heads):
    text = texts_of()[0]
    text[:, 0] = 5.0  # a coordinate that all tokens share is kept only if the weights sum to one
    found = embed(drawn(num_heads=heads), text[None])[0]
    assert found[0].item() == pytest.approx(5.0, abs=1e-12)
    assert (found >= text.min(0).values - 1e-12).all()
    assert (found <= text.max(0).values + 1e-12).all()


def test_the_order_of_tokens_is_not_seen():
    pooling, text = drawn(), texts_of()[2]
    assert torch.allclose(embed(pooling, text[None]), embed(pooling, text.flip(0)[None]), atol=1e-12)


def test_one_token_is_returned_and_teaches_nothing():
    pooling, tokens = drawn(), torch.randn(2, 1, 6, dtype=torch.float64)
    found = embed(pooling, tokens)
    assert torch.allclose(found, tokens[:, 0], atol=1e-12)
    found.pow(3).sum().backward()
    assert all(parameter.grad.abs().max() < 1e-12 for parameter in pooling.parameters())


@pytest.mark.parametrize("side", ["right", "left", "both"])
@pytest.mark.parametrize("filling", [0.0, 1e30, float("nan"), float("inf")])
def test_padding_changes_nothing(side, filling):
    pooling, texts = drawn(), texts_of()
    expected = torch.cat([embed(pooling, text[None]) for text in texts])
    assert torch.allclose(embed(pooling, *padded(texts, side, filling, length=9)), expected, atol=1e-12)


def test_padding_gets_no_gradient():
    pooling = drawn()
    tokens, mask = padded(texts_of())
    tokens.requires_grad_()
    embed(pooling, tokens, mask).pow(2).sum().backward()
    assert (tokens.grad[mask == 0] == 0).all()
    assert (tokens.grad[mask == 1].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("length", [2, torch.tensor([2]), torch.tensor([2, 2, 2])])
def test_the_prompt_is_left_out_of_the_mean_too(side, length):
    pooling, texts = drawn(include_prompt=False), texts_of(lengths=(4, 3, 6))
    expected = torch.cat([embed(pooling, text[None, 2:]) for text in texts])
    assert torch.allclose(embed(pooling, *padded(texts, side), prompt_length=length), expected, atol=1e-12)
    pooling.include_prompt = True
    everything = torch.cat([embed(pooling, text[None]) for text in texts])
    assert torch.allclose(embed(pooling, *padded(texts, side), prompt_length=length), everything, atol=1e-12)


def test_prompts_of_the_host_are_left_out(plain, texts):
    pooling = AttentionPooling(16, include_prompt=False)
    ours = SentenceTransformer(modules=[plain[0], pooling], device="cpu").eval()
    host = SentenceTransformer(modules=[plain[0], Pooling(16, include_prompt=False)], device="cpu").eval()
    for side in ("right", "left"):
        ours.tokenizer.padding_side = side
        found = ours.encode(texts, prompt="the red ")
        assert np.allclose(found, host.encode(texts, prompt="the red "), atol=1e-6)
    assert not np.allclose(found, ours.encode([f"the red {text}" for text in texts]), atol=1e-3)


@pytest.mark.parametrize("include_prompt", [True, False])
def test_flattened_inputs_are_pooled_like_padded_ones(include_prompt):
    pooling, texts = drawn(include_prompt=include_prompt), texts_of(lengths=(4, 3, 6))
    flat, ends = flattened(texts)
    found = embed(pooling, flat, cu_seq_lens_q=ends, prompt_length=2)
    assert torch.allclose(found, embed(pooling, *padded(texts), prompt_length=2), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_row_without_tokens_gives_zeros(dtype):
    pooling = drawn(include_prompt=False).to(dtype)
    tokens, mask = padded([text.to(dtype) for text in texts_of()])
    mask[2] = 0
    found = embed(pooling, tokens, mask, prompt_length=1)
    assert (found[1:] == 0).all()
    assert found[0].abs().max() > 0
    found.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in pooling.parameters())


def test_gradients_are_those_of_finite_differences():
    pooling = drawn()
    tokens, mask = padded(texts_of())
    names = ("text_factors", "token_factors")

    def pooled(tokens, *factors):
        features = {"token_embeddings": tokens, "attention_mask": mask}
        return torch.func.functional_call(pooling, dict(zip(names, factors, strict=True)), (features,))[
            "sentence_embedding"
        ]

    inputs = (tokens, *(getattr(pooling, name).detach() for name in names))
    assert torch.autograd.gradcheck(pooled, tuple(value.clone().requires_grad_() for value in inputs))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_and_sums_in_single(dtype):
    pooling = drawn(num_heads=2, rank=1).float()
    tokens = 100 * torch.randn(2, 2000, 6).to(dtype)  # their sum is beyond float16
    tokens[..., 0] = 100.0
    pooling.text_factors.data *= 1e-3
    found = embed(pooling.to(dtype), tokens)
    assert found.dtype == dtype
    assert torch.allclose(found.double(), embed(pooling.double(), tokens.double()), rtol=1e-2, atol=0.05)


def test_behind_an_elastic_model_it_pools_any_layer(model, texts):
    model[1] = drawn(16, include_prompt=False).float()
    layers = (1, 3, 4)
    features = model.preprocess(texts, prompt="the red ")
    with torch.no_grad():
        together = model({**features, "layers": layers})["sentence_embedding"].unflatten(0, (len(layers), -1))
    for layer, found in zip(layers, together, strict=True):
        expected = model.encode(texts, prompt="the red ", layer=layer, allow_untrained=True, convert_to_tensor=True)
        assert torch.allclose(found, expected, atol=1e-5)


def test_a_text_does_not_depend_on_its_batch(attentive, texts):
    attentive[1].text_factors.data.normal_()
    alone = np.stack([attentive.encode(text) for text in texts])
    assert np.allclose(attentive.encode(texts), alone, atol=1e-5)


def test_saved_and_loaded(attentive, texts, tmp_path):
    attentive[1] = drawn(16, include_prompt=False).float()
    attentive.save_pretrained(tmp_path)
    assert [file.name for file in sorted((tmp_path / "1_AttentionPooling").iterdir())] == [
        "config.json",
        "model.safetensors",
    ]
    again = SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    assert again[1].get_config_dict() == {
        "embedding_dimension": 16,
        "num_heads": 3,
        "rank": 2,
        "include_prompt": False,
    }
    assert np.array_equal(again.encode(texts, prompt="a dog "), attentive.encode(texts, prompt="a dog "))
    assert again.get_embedding_dimension() == 16


def test_the_graph_has_the_same_vectors(tmp_path):
    class Wrapper(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pooling = drawn().float()

        def forward(self, tokens, mask):
            return embed(self.pooling, tokens, mask)

    wrapper = Wrapper()
    batches = []
    for lengths, side in (((4, 2), "right"), ((3, 1, 7, 5), "left")):
        tokens, mask = padded([text.float() for text in texts_of(lengths=lengths)], side)
        batches.append({"tokens": tokens, "mask": mask})
    batches[1]["mask"][1] = 0
    found = graph_outputs(wrapper, *batches, tmp_path / "model.onnx")
    assert torch.allclose(found, wrapper(**batches[1]), atol=1e-5)


def test_the_ordinary_trainer_lowers_the_loss(attentive, tmp_path):
    for parameter in attentive[0].parameters():
        parameter.requires_grad_(False)
    before, after = losses_around_training(attentive, tmp_path, learning_rate=0.1)
    assert after < before - 0.01  # all that weights can do on the states of a random network


@pytest.mark.parametrize("name", ["embedding_dimension", "num_heads", "rank"])
def test_sizes_that_cannot_be_are_refused(name):
    with pytest.raises(SizeError, match=f"AttentionPooling needs a positive integer {name}, got 0"):
        AttentionPooling(**{"embedding_dimension": 4, name: 0})


def test_tokens_of_another_width_are_refused():
    with pytest.raises(ShapeError, match=r"\(batch, tokens, 6\), got \(1, 3, 8\). Build it with the width"):
        embed(drawn(), torch.randn(1, 3, 8))
