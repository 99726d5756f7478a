import json
import pickle

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

import families
import masking_cases
from decoder_cases import DECODERS, batch, change, states
from families import but_slow
from st_plugins.errors import UnsupportedModelError
from st_plugins.modules.bidirectional_transformer import BidirectionalTransformer, loading_class
from st_plugins.unmasking import CONFIG_UNMASKS, unmasked


@pytest.fixture(scope="session")
def _folders(tmp_path_factory):
    """A Hugging Face folder for each family, with a tokenizer that stops at the narrowest window."""
    folders = {}
    for name in [*DECODERS, "bert"]:
        folders[name] = str(tmp_path_factory.mktemp(name))
        families.build(name).save_pretrained(folders[name])
        masking_cases.tokenizer().save_pretrained(folders[name])
    return folders


@pytest.fixture
def folder(_folders, request):
    return _folders[getattr(request, "param", "qwen3")]


def model_of(transformer):
    return SentenceTransformer(modules=[transformer, Pooling(32, "mean")], device="cpu").eval()


@pytest.mark.parametrize("folder", but_slow(DECODERS, "llama", "gemma3_text"), indirect=True)
def test_it_is_the_hosts_transformer_without_the_causal_mask(folder, texts):
    causal = Transformer(folder, max_seq_length=8)
    for module in (
        BidirectionalTransformer(folder, max_seq_length=8),
        BidirectionalTransformer.from_transformer(causal),
    ):
        module.eval()
        features = module.preprocess(texts)
        ids, mask = features["input_ids"], features["attention_mask"]
        expected = states(unmasked(causal.model.eval()), ids, mask)
        with torch.no_grad():
            found = module(dict(features))["token_embeddings"]
        assert torch.equal(found[mask.bool()], expected[mask.bool()])
        assert change(found, states(causal.model, ids, mask))[mask.bool()].max() > 1e-3
        assert module.get_embedding_dimension() == 32


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("folder", but_slow(DECODERS, "llama", "gemma3_text"), indirect=True)
def test_a_vector_does_not_depend_on_its_batch(folder, side, texts):
    model = model_of(BidirectionalTransformer(folder, max_seq_length=8))
    model.tokenizer.padding_side = side
    together = model.encode(texts)
    alone = np.stack([model.encode(text) for text in texts])
    assert np.abs(together - alone).max() <= 1e-5 * np.abs(alone).max()


@pytest.mark.parametrize("folder", but_slow(DECODERS, "llama", "gemma3_text"), indirect=True)
def test_saved_and_loaded(folder, texts, tmp_path):
    model = model_of(BidirectionalTransformer(folder, max_seq_length=8))
    model.save_pretrained(str(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["is_causal"] is False
    entry = json.loads((tmp_path / "modules.json").read_text())[0]
    assert entry["type"] == "st_plugins.modules.bidirectional_transformer.BidirectionalTransformer"
    again = SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    assert type(again[0]) is BidirectionalTransformer
    assert np.array_equal(again.encode(texts), model.encode(texts))


@pytest.mark.skipif(not CONFIG_UNMASKS, reason="transformers 4 does not read is_causal")
def test_the_hosts_own_module_reads_the_same_folder_alike(folder, texts, tmp_path):
    model = model_of(BidirectionalTransformer(folder))
    model[0].save(str(tmp_path))
    assert np.array_equal(model_of(Transformer(str(tmp_path))).encode(texts), model.encode(texts))


def test_from_transformer_shares_weights_and_leaves_the_module_causal(folder, texts):
    causal = Transformer(folder)
    before = model_of(causal).encode(texts)
    module = BidirectionalTransformer.from_transformer(causal)
    assert all(a is b for a, b in zip(module.parameters(), causal.parameters(), strict=True))
    assert module.tokenizer is causal.tokenizer
    assert not hasattr(causal.config, "is_causal")
    assert type(causal) is Transformer
    assert np.array_equal(model_of(causal).encode(texts), before)
    assert np.abs(model_of(module).encode(texts) - before).max() > 1e-2


def test_it_trains(folder, texts):
    module = BidirectionalTransformer(folder).train()
    features = module.preprocess(texts[:1])
    assert module.model.training
    module(features)["token_embeddings"][0, 0].sum().backward()
    last = features["input_ids"][0, -1]
    assert module.model.embed_tokens.weight.grad[last].abs().max() > 1e-6


def test_a_worker_gets_it_unmasked(folder, texts):
    model = model_of(BidirectionalTransformer(folder))
    assert np.array_equal(pickle.loads(pickle.dumps(model)).encode(texts), model.encode(texts))


@pytest.mark.parametrize("folder", ["bert"], indirect=True)
def test_an_encoder_is_refused(folder):
    with pytest.raises(UnsupportedModelError, match="the tokens of BertModel see later ones already"):
        BidirectionalTransformer(folder)
    with pytest.raises(UnsupportedModelError, match="the tokens of BertModel see later ones already"):
        BidirectionalTransformer.from_transformer(Transformer(folder))


@pytest.mark.parametrize("folder", ["gemma3_text"], indirect=True)
def test_texts_longer_than_a_window_are_refused(folder, texts, tmp_path):
    message = "max_seq_length must be at most 8, got 32: layers of Gemma3TextModel see a window of 8 tokens"
    with pytest.raises(UnsupportedModelError, match=message):
        BidirectionalTransformer(folder)
    with pytest.raises(UnsupportedModelError, match=message):
        BidirectionalTransformer.from_transformer(Transformer(folder))
    module = BidirectionalTransformer(folder, max_seq_length=8)
    module.max_seq_length = 32
    with pytest.raises(UnsupportedModelError, match=message):
        module.preprocess(texts)
    module.save(str(tmp_path))
    with pytest.raises(UnsupportedModelError, match=message):
        BidirectionalTransformer(str(tmp_path))


def test_a_prompt_is_passed_on(folder):
    module = BidirectionalTransformer(folder)
    ids = module.preprocess(["a dog"], prompt="the cat ")["input_ids"]
    assert ids.tolist() == module.preprocess(["the cat a dog"])["input_ids"].tolist()


def test_it_says_what_it_is(folder):
    assert repr(BidirectionalTransformer(folder)).startswith("BidirectionalTransformer(")


def test_the_plainest_class_that_loads_a_network_as_it_is(folder):
    causal = Transformer(folder)
    assert loading_class(causal.model) is Transformer
    expected = Transformer if CONFIG_UNMASKS else BidirectionalTransformer
    assert loading_class(BidirectionalTransformer.from_transformer(causal).model) is expected


def test_its_network_takes_token_ids_alone(folder):
    network = BidirectionalTransformer(folder).model.eval()
    ids, _ = batch()
    assert torch.allclose(states(network, ids), states(network, ids, torch.ones_like(ids)), atol=1e-6)
