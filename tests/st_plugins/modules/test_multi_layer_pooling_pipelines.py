import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Transformer

import st_plugins
from pooling_cases import losses_around_training
from st_plugins.errors import ShapeError, UnsupportedModelError
from st_plugins.modules.multi_layer_pooling import MultiLayerPooling


@pytest.fixture
def pipeline(tiny_folder):
    """The tiny network with its hidden states, read by a multi-layer pooling."""
    transformer = Transformer(str(tiny_folder), config_kwargs={"output_hidden_states": True})
    torch.manual_seed(0)
    return SentenceTransformer(modules=[transformer, MultiLayerPooling(16, 4), Normalize()], device="cpu").eval()


def test_a_text_does_not_depend_on_its_batch(pipeline, texts):
    alone = np.stack([pipeline.encode(text) for text in texts])
    assert np.allclose(pipeline.encode(texts), alone, atol=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_prompts_of_the_host_are_left_out(pipeline, texts, side):
    pipeline.tokenizer.padding_side = side
    pipeline[1].include_prompt = False
    found = pipeline.encode(texts, prompt="the red ", convert_to_tensor=True)
    features = pipeline.preprocess(texts, prompt="the red ")
    with torch.no_grad():
        states = torch.stack(pipeline[0](features)["all_layer_embeddings"])
        for row, real in enumerate(features["attention_mask"].bool()):
            own = states[:, row : row + 1, real][:, :, 3:]  # without [CLS], "the" and "red"
            alone = {"token_embeddings": own[-1], "all_layer_embeddings": tuple(own)}
            alone["attention_mask"] = torch.ones(own.shape[1:3])
            expected = torch.nn.functional.normalize(pipeline[1](alone)["sentence_embedding"])
            assert torch.allclose(found[row], expected[0], atol=1e-5)


@pytest.mark.parametrize("layer_pooling", ["mean", "lasttoken"])
def test_saved_and_loaded(pipeline, texts, tmp_path, layer_pooling):
    options = {"layer_pooling": layer_pooling, "include_prompt": False, "normalize_layers": False}
    pipeline[1] = MultiLayerPooling(16, 4, num_queries=5, num_heads=3, head_dim=7, **options)
    pipeline.save_pretrained(tmp_path)
    files = sorted(file.name for file in (tmp_path / "1_MultiLayerPooling").iterdir())
    assert files == ["config.json", "model.safetensors"]
    again = SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    assert again[1].get_config_dict() == {
        "embedding_dimension": 16,
        "num_layers": 4,
        "num_queries": 5,
        "num_heads": 3,
        "head_dim": 7,
        **options,
    }
    assert np.array_equal(again.encode(texts, prompt="a dog "), pipeline.encode(texts, prompt="a dog "))
    assert again.get_embedding_dimension() == 16


def test_the_ordinary_trainer_lowers_the_loss(pipeline, tmp_path):
    for parameter in pipeline[0].parameters():
        parameter.requires_grad_(False)
    before, after = losses_around_training(pipeline, tmp_path, learning_rate=3e-3)
    assert after < before - 0.05


def test_without_hidden_states_it_says_how_to_get_them(plain, texts):
    model = SentenceTransformer(modules=[plain[0], MultiLayerPooling(16, 4)], device="cpu")
    with pytest.raises(UnsupportedModelError, match=r'config_kwargs=\{"output_hidden_states": True\}'):
        model.encode(texts)


def test_other_layers_than_built_for_are_refused(pipeline, texts):
    pipeline[1] = MultiLayerPooling(16, 6)
    with pytest.raises(ShapeError, match=r"\(num_layers=6\) needs the embeddings and 6 layers, got 5 tensors."):
        pipeline.encode(texts)


def test_behind_an_elastic_model_it_serves_the_full_depth_only(pipeline, texts):
    expected = pipeline.encode(texts)
    model = st_plugins.elastic(pipeline)
    assert np.allclose(model.encode(texts), expected, atol=1e-6)
    with pytest.raises(ShapeError, match="needs the embeddings and 4 layers, got 3 tensors"):
        model.encode(texts, layer=2, allow_untrained=True)
    with pytest.raises(UnsupportedModelError, match="exits do not keep them"):
        model.encode(texts, exit=0.9, allow_untrained=True)


def test_losses_over_several_layers_are_refused_by_name(pipeline, texts):
    model = st_plugins.elastic(pipeline)
    features = model.preprocess(texts)
    tokens = features["input_ids"].shape[1]
    message = rf"as token_embeddings, \(10, {tokens}\), got \(5, {tokens}\).*like ElasticLoss, cannot train it"
    with pytest.raises(UnsupportedModelError, match=message):
        model({**features, "layers": (2, 4)})
