import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

import masking_cases
import st_plugins
from decoder_cases import DECODERS
from families import but_slow
from st_plugins.bidirectional_attention import bidirectional
from st_plugins.errors import UnsupportedModelError
from st_plugins.exit_criteria import Saturation
from st_plugins.exit_policies import ExitPolicy
from st_plugins.unmasking import CONFIG_UNMASKS


def build(folder, family="qwen3"):
    """A causal model of a tiny family that no window cuts: 4 layers, 32 wide, unit vectors."""
    model = masking_cases.build(folder, family)
    model.max_seq_length = 8
    return model


@pytest.mark.parametrize("family", but_slow(DECODERS, "llama", "gemma3_text"))
def test_the_first_word_reads_the_last_and_the_given_model_is_left_causal(family, tmp_path):
    causal = build(tmp_path, family)
    model = bidirectional(causal)
    assert repr(model[0]).startswith("BidirectionalTransformer(")
    for one, sees_later_words in ((causal, False), (model, True), (causal, False)):
        texts = ["a cat a", "a cat .", "a cat a dog a mat"]  # the first two are padded
        ids = one.preprocess(texts)["input_ids"]
        assert not torch.equal(ids[0], ids[1])  # Qwen2 reads the tokenizer its own way
        states = one.encode(texts, output_value="token_embeddings")
        assert (abs(states[0][0] - states[1][0]).max() > 1e-6) == sees_later_words


def test_settings_and_the_other_modules_are_kept(tmp_path):
    causal = build(tmp_path)
    causal.prompts = {"query": "the ", "document": ""}
    causal.truncate_dim = 8
    model = bidirectional(causal.train())
    assert (model.prompts, model.truncate_dim, model.training) == (causal.prompts, 8, True)
    assert list(model.children())[1:] == list(causal.children())[1:]
    assert len(causal) == len(model) == 3


def test_weights_are_shared_with_the_model_it_came_from(tmp_path):
    causal = build(tmp_path)
    model = bidirectional(causal)
    assert all(a is b for a, b in zip(model.parameters(), causal.parameters(), strict=True))


def test_saved_and_loaded(tmp_path, texts):
    model = bidirectional(build(tmp_path / "causal"))
    model.save_pretrained(str(tmp_path / "both"))
    again = SentenceTransformer(str(tmp_path / "both"), trust_remote_code=True, device="cpu")
    assert np.array_equal(again.encode(texts), model.encode(texts))


def test_a_loss_trains_it(tmp_path, texts):
    model = bidirectional(build(tmp_path))
    before = model.encode(texts)
    loss = MultipleNegativesRankingLoss(model.train())
    loss([model.preprocess(texts), model.preprocess(texts[::-1])], None).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.data -= 0.1 * parameter.grad
    assert np.abs(model.eval().encode(texts) - before).max() > 1e-4


def test_an_encoder_is_refused(plain):
    with pytest.raises(UnsupportedModelError, match="the tokens of BertModel see later ones already. Use it as it is"):
        bidirectional(plain)


def test_an_elastic_model_is_refused(model):
    message = r"must not be elastic yet, .* Un-mask the plain model first: st_plugins.elastic\(st_plugins.bidirectional"
    with pytest.raises(UnsupportedModelError, match=message):
        bidirectional(model)


def test_a_bidirectional_model_is_refused(tmp_path):
    with pytest.raises(
        UnsupportedModelError, match="must be causal, but its first module is a BidirectionalTransforme"
    ):
        bidirectional(bidirectional(build(tmp_path)))


def test_a_model_without_attention_is_refused(tokenizer):
    static = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=4)], device="cpu")
    with pytest.raises(
        UnsupportedModelError, match="must be sentence-transformers' Transformer, got StaticEmbedding. On"
    ):
        bidirectional(static)


def test_a_first_module_with_a_forward_of_its_own_is_refused(tmp_path):
    causal = build(tmp_path)
    causal[0].forward = lambda features: features
    with pytest.raises(UnsupportedModelError, match="forward of the first module must be its class's own, got <func"):
        bidirectional(causal)


def test_texts_longer_than_a_window_are_refused(tmp_path):
    causal = build(tmp_path, "gemma2")
    causal.max_seq_length = 9
    with pytest.raises(UnsupportedModelError, match="max_seq_length must be at most 8, got 9: layers of Gemma2Model"):
        bidirectional(causal)


def sees_later_words(model, **options):
    texts = ["a cat a", "a cat .", "a cat a dog a mat"]  # the first two are padded
    states = model.encode(texts, output_value="token_embeddings", **options)
    return bool(abs(states[0][0] - states[1][0]).max() > 1e-6)


def test_our_loader_unmasks_it(tmp_path, texts):
    model = bidirectional(build(tmp_path / "causal"))
    model.save_pretrained(str(tmp_path / "both"))
    again = st_plugins.load(tmp_path / "both", device="cpu")
    assert type(again[0]) is st_plugins.modules.BidirectionalTransformer
    assert np.array_equal(again.encode(texts), model.encode(texts))


@pytest.mark.parametrize("family", but_slow(DECODERS, "llama", "gemma3_text"))
def test_its_elastic_form_is_unmasked_at_every_layer_and_when_loaded(family, tmp_path, texts):
    model = bidirectional(build(tmp_path / "causal", family))
    elastic = st_plugins.elastic(model, sizes=[(1, 32), (2, 32)])
    assert np.array_equal(elastic.encode(texts), model.encode(texts))
    elastic.save_pretrained(str(tmp_path / "elastic"))
    for one in (elastic, st_plugins.load(tmp_path / "elastic", device="cpu")):
        assert np.array_equal(one.encode(texts), model.encode(texts))
        leaving_at_once = one.encode(texts, exit=-1.0)  # at the second layer, the first it can compare
        assert np.allclose(leaving_at_once, one.encode(texts, layer=2), atol=1e-6)
        for options in ({"layer": 1}, {"layer": 2}, {"exit": -1.0}, {"exit": 0.9999}):
            assert sees_later_words(one, **options)
            assert np.allclose(one.encode(texts, **options), elastic.encode(texts, **options), atol=1e-6)


@pytest.mark.parametrize("family", but_slow(DECODERS, "llama", "gemma3_text"))
def test_a_baked_size_is_unmasked_and_loaded_so(family, tmp_path, texts):
    elastic = st_plugins.elastic(bidirectional(build(tmp_path / "causal", family)), sizes=[(2, 16)])
    baked = st_plugins.bake(elastic, layer=2, dim=16)
    assert np.allclose(baked.encode(texts), elastic.encode(texts, layer=2, truncate_dim=16), atol=1e-6)
    baked.save_pretrained(str(tmp_path / "baked"))
    again = SentenceTransformer(str(tmp_path / "baked"), trust_remote_code=not CONFIG_UNMASKS, device="cpu")
    assert np.array_equal(again.encode(texts), baked.encode(texts))
    assert sees_later_words(again)
    assert ("st_plugins" in (tmp_path / "baked" / "modules.json").read_text()) == (not CONFIG_UNMASKS)


def test_an_elastic_loss_trains_it(tmp_path, texts):
    model = st_plugins.elastic(bidirectional(build(tmp_path))).train()
    loss = st_plugins.losses.ElasticLoss(model, MultipleNegativesRankingLoss(model), sizes=[(2, 16)])
    value = loss([model.preprocess(texts), model.preprocess(texts[::-1])], None)
    (sum(value.values()) if isinstance(value, dict) else value).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_an_elastic_one_refuses_texts_longer_than_a_window(tmp_path, texts):
    model = st_plugins.elastic(bidirectional(build(tmp_path / "causal", "gemma2")))
    model.max_seq_length = 9
    message = "max_seq_length must be at most 8, got 9: layers of Gemma2Model"
    with pytest.raises(UnsupportedModelError, match=message):
        model.encode(texts)
    model.save_pretrained(str(tmp_path / "elastic"))
    with pytest.raises(UnsupportedModelError, match=message):
        st_plugins.load(tmp_path / "elastic", device="cpu")


def test_its_vectors_are_another_space(tmp_path):
    causal = build(tmp_path / "causal")
    model = bidirectional(causal)
    prints = [st_plugins.fingerprint(one) for one in (causal, model, st_plugins.elastic(causal))]
    elastic = st_plugins.elastic(model)
    elastic.save_pretrained(str(tmp_path / "elastic"))
    again = st_plugins.load(tmp_path / "elastic", device="cpu")
    assert st_plugins.fingerprint(elastic) == st_plugins.fingerprint(again)
    assert len({*prints, st_plugins.fingerprint(elastic)}) == 4


@pytest.mark.parametrize("family", but_slow(DECODERS, "llama", "gemma3_text"))
def test_a_layer_is_that_of_a_shorter_decoder(family, tmp_path, texts):
    causal = build(tmp_path / "causal", family)
    both = bidirectional(causal)
    model = st_plugins.elastic(both, sizes=[(1, 32), (2, 32)])
    assert np.array_equal(model.encode(texts), both.encode(texts))
    assert not np.allclose(model.encode(texts), causal.encode(texts), atol=1e-3)

    half = build(tmp_path / "half", family)
    half[0].model.layers = half[0].model.layers[:2]
    half[0].model.config.num_hidden_layers = 2
    if getattr(half[0].model.config, "layer_types", None):
        half[0].model.config.layer_types = half[0].model.config.layer_types[:2]
    expected = bidirectional(half).encode(texts)
    model[0].add_exit_policy(ExitPolicy("second", Saturation(), -1.0, (1, 2, 4)))
    model.save_pretrained(str(tmp_path / "elastic"))
    for one in (model, st_plugins.load(tmp_path / "elastic", device="cpu")):
        assert np.allclose(one.encode(texts, layer=2), expected, atol=1e-6)
        assert np.allclose(one.encode(texts, exit="second"), expected, atol=1e-5)
        assert np.allclose(st_plugins.bake(one, layer=2).encode(texts), expected, atol=1e-6)
