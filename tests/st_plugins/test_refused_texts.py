import numpy as np
import pytest
import torch

from st_plugins.errors import InputError
from st_plugins.refused_texts import refused_texts, with_tokens


def test_a_lone_surrogate_is_refused_by_row_and_text(model, texts):
    with pytest.raises(InputError, match=r"at row 1 of the batch, 'a \\ud800 cat', is not valid Unicode .*'replace'"):
        model.encode(["the dog sat on the mat", "a \ud800 cat"])
    model.prompts["query"] = "the "
    with pytest.raises(InputError, match=r"at row 0 of the batch, '\\udfff', is not valid"):
        model.encode_query(["\udfff"])
    assert np.isfinite(model.encode(texts)).all()


def test_other_errors_pass_as_they_are():
    with pytest.raises(TypeError, match="of something else"), refused_texts(["fine", 3]):
        raise TypeError("of something else")
    with pytest.raises(TypeError, match="of something else"), refused_texts(None):
        raise TypeError("of something else")


def test_long_texts_are_named_by_their_beginning():
    with pytest.raises(InputError, match=r"batch, 'x{40}', is not"), refused_texts(["x" * 99 + "\ud800"]):
        raise TypeError("TextEncodeInput must be")


def test_a_text_without_tokens_is_refused_but_in_training(model):
    model.tokenizer.backend_tokenizer.post_processor = None  # no special tokens
    with pytest.raises(InputError, match="at row 1 of the batch, ' ', has no tokens. Leave it out"):
        model.encode(["the cat", " "])
    model.train()
    assert not model.preprocess(["the cat", " "])["attention_mask"][1].any()


def test_what_has_no_mask_passes():
    features = {"input_ids": torch.ones(3)}
    assert with_tokens(features, ["a"]) is features
