"""Calibration texts as inputs of a graph."""

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models

from st_plugins.errors import InputError
from st_plugins_export.calibration import CALIBRATION_TEXTS, calibration_batches, checked_texts
from st_plugins_export.probes import probe_texts


def test_every_text_comes_once_and_padding_is_small(plain):
    batches = calibration_batches(plain, CALIBRATION_TEXTS)
    assert [len(batch["input_ids"]) for batch in batches] == [8] * (len(CALIBRATION_TEXTS) // 8)
    for batch in batches:
        assert set(batch) == {"input_ids", "token_type_ids", "attention_mask"}
        assert all(value.dtype == np.int64 and value.shape == batch["input_ids"].shape for value in batch.values())
    widths = [batch["input_ids"].shape[1] for batch in batches]
    assert widths == sorted(widths)
    assert len(set(CALIBRATION_TEXTS)) == len(CALIBRATION_TEXTS)


def test_layers_take_turns(plain):
    batches = calibration_batches(plain, ["a", "b", "c"], layers=(1, 3))
    assert batches[0]["layer"].tolist() == [1, 3, 1]


def test_no_calibration_text_is_a_probe(plain):
    assert not set(CALIBRATION_TEXTS) & set(probe_texts(plain))


def test_texts_of_ones_own_may_come_from_anywhere():
    assert checked_texts(iter(["a", "b"])) == ("a", "b")


@pytest.mark.parametrize("texts", ["a text", [], [b"a"], ["a", None]])
def test_what_is_no_list_of_texts_is_refused(texts):
    with pytest.raises(InputError, match="calibration_texts must be a list of at least one text, got .* Give some"):
        checked_texts(texts)


def test_batches_without_any_known_word_are_left_out():
    letters = Tokenizer(models.BPE({"x": 0, "y": 1}, []))
    model = SentenceTransformer(modules=[StaticEmbedding(letters, embedding_dim=4)])
    (batch,) = calibration_batches(model, ["no"] * 8 + ["in a yx"])
    assert (batch["input_ids"].tolist(), batch["attention_mask"].tolist()) == ([[1, 0]], [[1, 1]])
    with pytest.raises(InputError, match="must know a word of calibration_texts, and knows none. Give some that you"):
        calibration_batches(model, ["no", "none"])
