"""Most of this needs peft, the extra ``lora``; without it only its absence is tested."""

import copy
import sys

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, StaticEmbedding

import st_plugins
from st_plugins.errors import MissingExtraError, UnsupportedModelError
from st_plugins.modules.latent_attention_pooling import LatentAttentionPooling
from st_plugins.training.lora import add_lora, merge_lora


@pytest.fixture
def needs_peft():
    return pytest.importorskip("peft", reason="the extra lora is not installed")


def disturb(model, std=0.3):
    """As a training would, in what LoRA added alone."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * std)


@pytest.mark.parametrize("act", [add_lora, merge_lora])
def test_without_peft_it_says_what_to_install(plain, act, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"'peft'.* pip install 'st-plugins\[lora\]'"):
        act(plain)
    assert all(parameter.requires_grad for parameter in plain.parameters())


def test_nothing_changes_until_it_is_trained(plain, texts, needs_peft):
    before = plain.encode(texts)
    add_lora(plain, rank=2)
    assert (plain.eval().encode(texts) == before).all()


def test_the_dropout_is_that_of_the_added_part(plain, needs_peft):
    add_lora(plain, rank=2, dropout=0.25)
    assert plain[0].model.encoder.layer[0].output.dense.lora_dropout["default"].p == 0.25


def test_only_the_added_matrices_and_the_pooling_learn(plain, needs_peft):
    pooling = LatentAttentionPooling(16, num_latents=3, num_heads=2, head_dim=4)
    model = SentenceTransformer(modules=[plain[0], pooling, Normalize()], device="cpu")
    add_lora(model, rank=2)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in learning if name.startswith("1.")} == {
        f"1.{name}" for name, _ in pooling.named_parameters()
    }
    assert all("lora_" in name for name in learning if name.startswith("0."))
    # Two matrices beside each of the six linear layers of four blocks, and beside BERT's own pooler.
    assert len([name for name in learning if name.startswith("0.")]) == 2 * (6 * 4 + 1)


@pytest.mark.parametrize(("rank", "alpha"), [(2, 4.0), (3, 1.0)])
def test_merging_adds_the_product_of_the_matrices(plain, texts, rank, alpha, needs_peft):
    original = copy.deepcopy(plain[0].model.state_dict())
    add_lora(plain, rank=rank, alpha=alpha)
    disturb(plain.eval())
    layer = plain[0].model.encoder.layer[1].output.dense
    added = alpha / rank * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    vectors = plain.encode(texts)
    merge_lora(plain)
    assert abs(plain.encode(texts) - vectors).max() < 1e-5
    merged = plain[0].model.state_dict()
    assert list(merged) == list(original)
    name = "encoder.layer.1.output.dense.weight"
    assert torch.allclose(merged[name], original[name] + added, atol=1e-6)
    assert not torch.allclose(merged[name], original[name], atol=1e-3)
    assert all(parameter.requires_grad for parameter in plain.parameters())


def test_the_result_is_a_plain_model_that_saves_loads_and_becomes_elastic(plain, texts, tmp_path, needs_peft):
    add_lora(plain, rank=2)
    disturb(plain.eval())
    merge_lora(plain)
    vectors = plain.encode(texts)
    plain.save_pretrained(str(tmp_path / "plain"))
    assert not list((tmp_path / "plain").glob("adapter*"))
    assert abs(SentenceTransformer(str(tmp_path / "plain"), device="cpu").encode(texts) - vectors).max() < 1e-6
    elastic = st_plugins.elastic(plain, sizes=[(2, 8)])
    elastic.save_pretrained(str(tmp_path / "elastic"))
    again = st_plugins.load(tmp_path / "elastic", device="cpu")
    assert abs(again.encode(texts) - vectors).max() < 1e-6
    assert st_plugins.bake(elastic, layer=2, dim=8).encode(texts).shape == (5, 8)


def test_an_elastic_model_learns_at_every_layer(model, texts, needs_peft):
    add_lora(model, rank=2)
    disturb(model.eval())
    vectors = [model.encode(texts, layer=layer, allow_untrained=True) for layer in (1, 4)]
    merge_lora(model)
    for layer, expected in zip((1, 4), vectors, strict=True):
        assert abs(model.encode(texts, layer=layer, allow_untrained=True) - expected).max() < 1e-5


def test_two_adapters_are_refused_and_the_advice_helps(plain, needs_peft):
    add_lora(plain)
    with pytest.raises(UnsupportedModelError, match=r"no adapter yet, this one has \['default'\]. Train that one on"):
        add_lora(plain)
    merge_lora(plain)
    add_lora(plain)


def test_an_adapter_of_other_settings_is_merged_too(plain, texts, needs_peft):
    plain.add_adapter(needs_peft.LoraConfig(r=2, target_modules=["query"]), "mine")
    disturb(plain.eval())
    vectors = plain.encode(texts)
    merge_lora(plain)
    assert abs(plain.encode(texts) - vectors).max() < 1e-5


def test_nothing_to_merge_is_refused(plain, needs_peft):
    with pytest.raises(UnsupportedModelError, match="must have an adapter to merge, this one has none. Call add_lora"):
        merge_lora(plain)


def test_a_model_without_a_transformer_is_refused(tokenizer, needs_peft):
    static = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=4), Dense(4, 4)], device="cpu")
    with pytest.raises(UnsupportedModelError, match="takes adapters, this one starts with StaticEmbedding"):
        add_lora(static)
