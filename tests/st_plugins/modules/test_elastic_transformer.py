from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling

import st_plugins
from st_plugins.errors import SizeError, UnsupportedModelError, UntrainedSizeError
from st_plugins.modules import ElasticTransformer


def test_built_by_hand_as_transformer_is(tiny_folder, texts):
    module = ElasticTransformer(str(tiny_folder), sizes=[(2, 16)])
    model = SentenceTransformer(modules=[module, Pooling(16, "mean")], device="cpu")
    assert model.encode(texts, layer=2).shape == (5, 16)
    assert repr(module).startswith("ElasticTransformer(")


def test_each_layer_is_the_hidden_state_of_that_layer(model, texts):
    features = model.preprocess(texts)
    network = model[0].model
    with torch.no_grad():
        states = network(
            input_ids=features["input_ids"], attention_mask=features["attention_mask"], output_hidden_states=True
        ).hidden_states
        for layer in (1, 2, 3, 4):
            out = model[0](features, layer=layer, allow_untrained=True)
            assert torch.allclose(out["token_embeddings"], states[layer], atol=1e-6)
            assert out["exit_layer"].tolist() == [layer] * 5
    assert "token_embeddings" not in features


def test_a_text_does_not_depend_on_its_batch(model, texts):
    together = model.encode(texts, layer=2, allow_untrained=True)
    alone = np.stack([model.encode(text, layer=2, allow_untrained=True) for text in texts])
    assert np.allclose(together, alone, atol=1e-6)


def test_untrained_layers_are_refused_before_any_work(model, texts):
    with pytest.raises(UntrainedSizeError, match=r"trained for, \[4\], got 2. Train it with st_plugins.losses"):
        model.encode(texts, layer=2)
    model[0].add_sizes([(2, 8), (3, 16)])
    assert model[0].trained_layers() == [2, 3, 4]
    with pytest.raises(UntrainedSizeError, match=r"\[2, 3, 4\], got 1"):
        model.encode(texts, layer=1)
    assert model.encode(texts, layer=2).shape == (5, 16)


@pytest.mark.parametrize("layer", [0, 5, -1, "2", 1.0])
def test_layers_that_do_not_exist_are_refused(model, texts, layer):
    with pytest.raises(SizeError, match="layer must be an integer from 1 to 4"):
        model.encode(texts, layer=layer, allow_untrained=True)


@pytest.mark.parametrize(
    ("size", "message"),
    [((9, 4), "layer must be"), ((2, 0), "dim must be a positive"), ((2,), "must be pairs"), (3, "must be pairs")],
)
def test_sizes_that_cannot_be_are_refused(model, size, message):
    with pytest.raises(SizeError, match=message):
        model[0].add_sizes([size])
    assert model[0].sizes == []


def test_several_layers_in_one_pass_equal_one_by_one(model, texts):
    layers = (1, 3, 4)
    features = model.preprocess(texts)
    with torch.no_grad():
        stacked = model({**features, "layers": layers})["sentence_embedding"].unflatten(0, (3, -1))
        for index, layer in enumerate(layers):
            alone = model(dict(features), layer=layer, allow_untrained=True)["sentence_embedding"]
            assert torch.allclose(stacked[index], alone, atol=1e-6)


def test_several_layers_leave_the_batch_as_it_was(model, texts):
    features = {**model.preprocess(texts), "layers": (2, 4)}
    shapes = {key: value.shape for key, value in features.items() if hasattr(value, "shape")}
    out = model[0](features)
    assert {key: value.shape for key, value in features.items() if hasattr(value, "shape")} == shapes
    assert out["exit_layer"].tolist() == [2] * 5 + [4] * 5
    assert out["attention_mask"].shape[0] == out["token_embeddings"].shape[0] == 10


def test_a_missing_layer_among_several_is_refused(model, texts):
    with pytest.raises(SizeError, match="from 1 to 4 .* got 7"):
        model({**model.preprocess(texts), "layers": (2, 7)})


def test_flattened_inputs_are_refused_for_several_layers(model):
    features = {"input_ids": torch.ones(1, 4, dtype=torch.long), "cu_seq_lens_q": torch.tensor([0, 4]), "layers": (2,)}
    with pytest.raises(UnsupportedModelError, match=r"needs padded inputs.*unpad_inputs = False"):
        model[0](features)


def test_mixed_layers_from_many_threads_equal_serial_calls(model, texts):
    calls = [(layer, text) for layer in (1, 2, 3, 4) for text in texts] * 5
    options = {"allow_untrained": True}
    expected = {(layer, text): model.encode(text, layer=layer, **options) for layer, text in calls[:20]}
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda call: model.encode(call[1], layer=call[0], **options), calls))
    assert all(np.array_equal(result, expected[call]) for result, call in zip(results, calls, strict=True))


def test_instruction_masking_works_at_every_layer(plain, texts):
    plain.set_pooling_include_prompt(False)
    model = st_plugins.elastic(plain)
    masked = model.encode(texts, prompt="the red cat ", layer=2, allow_untrained=True)
    model.set_pooling_include_prompt(True)
    assert not np.allclose(masked, model.encode(texts, prompt="the red cat ", layer=2, allow_untrained=True), atol=1e-3)


def test_saved_and_loaded_with_its_sizes(model, texts, tmp_path):
    model[0].add_sizes([(2, 8)])
    model.save_pretrained(tmp_path)
    again = SentenceTransformer(str(tmp_path), trust_remote_code=True)
    assert type(again[0]) is ElasticTransformer
    assert again[0].sizes == [[2, 8]]
    for options in ({}, {"layer": 2}, {"layer": 2, "truncate_dim": 8}):
        assert np.array_equal(again.encode(texts, **options), model.encode(texts, **options))


def test_bfloat16_keeps_its_dtype(model, texts):
    model.bfloat16()
    out = model(model.preprocess(texts), layer=2, allow_untrained=True)
    assert out["sentence_embedding"].dtype == torch.bfloat16
