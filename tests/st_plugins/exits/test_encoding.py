import numpy as np
import pytest
import torch

import exit_cases
from st_plugins.errors import ExitError, InputError, UnsupportedModelError, UntrainedSizeError
from st_plugins.exit_criteria import Saturation
from st_plugins.exit_policies import ExitPolicy
from st_plugins.exits import encode_with_exits


@pytest.fixture
def trained(model):
    exit_cases.train(model)
    model[0].add_exit_policy(ExitPolicy("half", Saturation(), 0.29, (1, 2, 3, 4)))
    return model


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_vectors_are_those_of_encode_and_layers_those_of_each_text(trained, batch_size):
    texts = exit_cases.texts(40)
    vectors, layers = encode_with_exits(trained, texts, exit="half", batch_size=batch_size)
    assert np.allclose(vectors, trained.encode(texts, exit="half"), atol=1e-6)
    assert vectors.dtype == np.float32
    assert len(set(layers.tolist())) > 1
    for text, vector, layer in zip(texts, vectors, layers, strict=True):
        assert np.allclose(vector, trained.encode(text, layer=int(layer)), atol=1e-6)


def test_arguments_of_encode_are_followed(trained):
    texts = exit_cases.texts(10)
    trained.prompts = {"query": "the red "}
    for options in (
        {"prompt_name": "query"},
        {"prompt": "a blue "},
        {"truncate_dim": 8},
        {"layer": 2},
        {"normalize_embeddings": True, "truncate_dim": 8},
        {"truncate_dim": 5, "allow_untrained": True},
    ):
        vectors, layers = encode_with_exits(trained, texts, exit="half", **options)
        assert np.allclose(vectors, trained.encode(texts, exit="half", **options), atol=1e-6), options
        assert layers.max() <= options.get("layer", 4)
    with pytest.raises(UntrainedSizeError, match="got 5"):
        encode_with_exits(trained, texts, exit="half", truncate_dim=5)


def test_vectors_are_normalized_if_asked(trained):
    texts = exit_cases.texts(5)
    del trained[2]  # Normalize
    vectors, _ = encode_with_exits(trained, texts, exit="half", normalize_embeddings=True)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(5), abs=1e-6)
    assert np.linalg.norm(encode_with_exits(trained, texts, exit="half")[0], axis=1).min() > 1.1


def test_half_precision_comes_as_numbers_numpy_knows(trained):
    trained.bfloat16()
    vectors, layers = encode_with_exits(trained, exit_cases.texts(5), exit="half")
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    assert layers.shape == (5,)


def test_token_embeddings_are_not_kept(trained, monkeypatch):
    kept = []
    stack = torch.stack
    monkeypatch.setattr("st_plugins.exits.encoding.torch.stack", lambda rows: kept.append(rows) or stack(rows))
    seen = {}
    encode = type(trained).encode

    def watched(model, *args, **options):
        rows = encode(model, *args, **options)
        seen.update(rows[0])
        return rows

    monkeypatch.setattr(type(trained), "encode", watched)
    encode_with_exits(trained, exit_cases.texts(3), exit="half")
    assert set(seen) == {"sentence_embedding", "exit_layer", "trained_dims"}
    assert kept


def test_the_model_is_as_it_was(trained):
    texts = exit_cases.texts(3)
    before = [name for name, _ in trained.named_children()]
    encode_with_exits(trained, texts, exit="half")
    assert [name for name, _ in trained.named_children()] == before
    assert trained.encode(texts).shape == (3, 16)


@pytest.mark.parametrize(
    "options", [{"output_value": None}, {"precision": "int8"}, {"convert_to_tensor": True}, {"pool": None}]
)
def test_arguments_that_change_what_is_returned_are_refused(trained, options):
    with pytest.raises(ExitError, match=rf"it takes no \['{next(iter(options))}'\]. For those use model.encode"):
        encode_with_exits(trained, ["a"], exit="half", **options)
    with pytest.raises(ExitError, match="it takes no list of devices"):
        encode_with_exits(trained, ["a"], exit="half", device=["cpu", "cpu"])


def test_what_cannot_be_encoded_is_refused(trained, plain):
    for texts in ([], "one text"):
        with pytest.raises(InputError, match="texts must be a list of at least one text"):
            encode_with_exits(trained, texts, exit="half")
    with pytest.raises(ExitError, match="a policy of this model"):
        encode_with_exits(trained, ["a"], exit="no")
    with pytest.raises(UnsupportedModelError, match="model for exits must be elastic"):
        encode_with_exits(plain, ["a"], exit="half")
