import numpy as np
import pytest
import torch

import st_plugins
from st_plugins.errors import InputError, SizeError, UnsupportedModelError, UntrainedSizeError
from st_plugins.exits import encode_progressively

TEXT = "the red dog was under the blue tree"


def test_each_layer_is_what_encode_gives(model):
    for layer, vector in encode_progressively(model, TEXT, [1, 2, 4], allow_untrained=True):
        np.testing.assert_allclose(vector, model.encode(TEXT, layer=layer, allow_untrained=True), atol=1e-6)
    assert (layer, vector.dtype) == (4, np.float32)


def test_prompts_and_dims_are_those_of_encode(model):
    model.prompts, model.default_prompt_name = {"p": "the cat ", "q": "a "}, "q"
    options = {"truncate_dim": 4, "allow_untrained": True}
    for more in ({}, {"prompt_name": "p"}, {"prompt": "it "}):
        ((_, vector),) = encode_progressively(model, TEXT, [2], **options, **more)
        np.testing.assert_allclose(vector, model.encode(TEXT, layer=2, **options, **more), atol=1e-6)
    model.truncate_dim = 4
    ((_, vector),) = encode_progressively(model, TEXT, [2], allow_untrained=True)
    assert vector.shape == (4,)


def test_maps_of_an_alignment_are_used(model):
    corpus = [f"{one} {other}" for one in ("the cat", "a dog", "red", "blue") for other in ("sat", "ran", "is", "was")]
    aligned = st_plugins.align_layers(model, corpus)
    for layer, vector in encode_progressively(aligned, TEXT, [1, 3, 4]):
        np.testing.assert_allclose(vector, aligned.encode(TEXT, layer=layer), atol=1e-5)


def test_blocks_run_when_they_are_asked_for_and_once(model):
    ran = []
    for place, block in enumerate(model[0].model.encoder.layer, 1):
        block.register_forward_hook(lambda *_, place=place: ran.append(place))
    steps = encode_progressively(model, TEXT, [2, 4], allow_untrained=True)
    assert ran == []
    next(steps)
    assert ran == [1, 2]
    assert not torch.is_inference_mode_enabled()
    next(steps)
    assert ran == [1, 2, 3, 4]


def test_what_cannot_be_done_is_refused_at_the_call(model, plain):
    for layers in ([], [2, 2], [4, 2]):
        with pytest.raises(SizeError, match="layers must be some layers in ascending order, got"):
            encode_progressively(model, TEXT, layers, allow_untrained=True)
    with pytest.raises(SizeError, match="layer"):
        encode_progressively(model, TEXT, [2, 9], allow_untrained=True)
    with pytest.raises(UntrainedSizeError, match="layer must be one the model was trained for"):
        encode_progressively(model, TEXT, [2, 4])
    with pytest.raises(InputError, match=r"text must be one text, got list\. For many use model\.encode"):
        encode_progressively(model, [TEXT], [4])
    with pytest.raises(InputError, match="prompt_name must be a prompt of the model, .*, got 'none'"):
        encode_progressively(model, TEXT, [4], prompt_name="none")
    with pytest.raises(UnsupportedModelError, match="encode_progressively"):
        encode_progressively(plain, TEXT, [4])


def test_dims_must_be_trained_too(model):
    model[0].sizes = [(2, 16), (2, 8)]
    assert next(encode_progressively(model, TEXT, [2], truncate_dim=8))[1].shape == (8,)
    with pytest.raises(UntrainedSizeError, match="truncate_dim must be a dim the model was trained for"):
        next(encode_progressively(model, TEXT, [2], truncate_dim=4))
