import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

import st_plugins
from st_plugins.errors import InputError, SizeError, UnsupportedModelError
from st_plugins.long_texts import ContextWindows

LONG = " ".join(("the red dog was under the blue tree and the cat was in it and slow is fast " * 5).split()[:85])


def words(first, last):
    return " ".join(LONG.split()[first:last])


def mean_of(model, pieces, prompt=None):
    mean = model.encode(pieces, prompt=prompt).mean(axis=0)
    return mean / np.linalg.norm(mean)


def test_what_fits_is_embedded_as_by_the_model(plain, texts):
    windows = ContextWindows(plain)
    assert np.allclose(windows.encode([*texts, words(0, 30)]), plain.encode([*texts, words(0, 30)]), atol=1e-6)
    assert np.allclose(windows.encode_query(texts), plain.encode_query(texts), atol=1e-6)
    assert np.allclose(windows.encode_document(texts), plain.encode_document(texts), atol=1e-6)


def test_a_long_text_is_the_mean_of_its_windows_the_last_of_them_full(plain):
    # 32 tokens are 30 words and two special ones.
    expected = mean_of(plain, [words(0, 30), words(30, 60), words(55, 85)])
    assert np.allclose(ContextWindows(plain).encode([LONG])[0], expected, atol=1e-6)
    expected = mean_of(plain, [words(0, 30), words(1, 31)])
    assert np.allclose(ContextWindows(plain).encode([words(0, 31)])[0], expected, atol=1e-6)
    expected = mean_of(plain, [words(0, 30), words(30, 60)])
    assert np.allclose(ContextWindows(plain).encode([words(0, 60)])[0], expected, atol=1e-6)


def test_a_window_may_be_shorter(plain):
    expected = mean_of(plain, [words(0, 10), words(10, 20), words(15, 25)])
    assert np.allclose(ContextWindows(plain, window=12).encode([words(0, 25)])[0], expected, atol=1e-6)


@pytest.mark.parametrize("include_prompt", [True, False])
def test_each_window_begins_with_the_prompt(plain, include_prompt):
    modules = [plain[0], Pooling(16, "mean", include_prompt=include_prompt), Normalize()]
    model = SentenceTransformer(modules=modules, device="cpu", prompts={"query": "it is ", "document": "a "})
    windows = ContextWindows(model)
    expected = mean_of(model, [words(0, 28), words(28, 56), words(56, 84), words(57, 85)], prompt="it is ")
    assert np.allclose(windows.encode_query([LONG])[0], expected, atol=1e-6)
    expected = mean_of(model, [words(0, 29), words(29, 58), words(56, 85)], prompt="a ")
    assert np.allclose(windows.encode_document([LONG])[0], expected, atol=1e-6)
    assert np.allclose(windows.encode([LONG], prompt="a ")[0], expected, atol=1e-6)
    assert np.allclose(windows.encode_query(["a cat"]), model.encode_query(["a cat"]), atol=1e-6)


def test_a_vector_does_not_depend_on_others(plain, texts):
    windows = ContextWindows(plain)
    together = windows.encode([LONG, *texts, words(3, 70)], batch_size=3)
    alone = np.concatenate([windows.encode([text]) for text in (LONG, *texts, words(3, 70))])
    assert np.allclose(together, alone, atol=1e-6)
    assert windows.encode([]).shape == (0, 16)


def test_without_normalize_the_mean_is_all(plain):
    model = SentenceTransformer(modules=[plain[0], plain[1]], device="cpu")
    expected = model.encode([words(0, 30), words(30, 60)]).mean(axis=0)
    assert np.allclose(ContextWindows(model).encode([words(0, 60)])[0], expected, atol=1e-5)


def test_vectors_are_cut_as_the_model_cuts_them(plain, texts):
    full = ContextWindows(plain).encode([LONG])
    assert np.allclose(ContextWindows(plain).encode([LONG], truncate_dim=4), full[:, :4], atol=1e-7)
    plain.truncate_dim = 8
    assert np.allclose(ContextWindows(plain).encode([LONG]), full[:, :8], atol=1e-7)


def test_tokens_may_be_padded_on_the_left(plain):
    expected = ContextWindows(plain).encode([LONG])
    plain.tokenizer.padding_side = "left"
    assert np.allclose(ContextWindows(plain).encode([LONG]), expected, atol=1e-6)


def test_elastic_models_run_at_full_depth(model, plain):
    assert np.allclose(ContextWindows(model).encode([LONG]), ContextWindows(plain).encode([LONG]), atol=1e-6)


def test_another_window_is_another_space(plain):
    prints = {ContextWindows(plain, window=window).fingerprint for window in (None, 32, 16)}
    assert len(prints) == 2
    assert st_plugins.fingerprint(plain) not in prints


def test_the_model_keeps_its_limit(plain):
    ContextWindows(plain).encode([LONG])
    assert plain.max_seq_length == plain.tokenizer.model_max_length == 32


@pytest.mark.parametrize("limit", [None, 10**30])  # the latter is what transformers writes for none
def test_a_model_without_a_limit_needs_a_window(plain, limit):
    expected = ContextWindows(plain, window=16).encode([LONG])
    plain.tokenizer.model_max_length = limit
    for window in (None, 0):
        with pytest.raises(SizeError, match=f"from 1, as this model has no max_seq_length of its own, got {window}"):
            ContextWindows(plain, window=window)
    assert np.allclose(ContextWindows(plain, window=16).encode([LONG]), expected, atol=1e-6)


def test_what_cannot_be_read_is_refused(plain):
    for window in (0, 33, 12.0, True):
        with pytest.raises(
            SizeError, match=rf"window must be an integer from 1 to 32, model.max_seq_length, got {window}"
        ):
            ContextWindows(plain, window=window)
    with pytest.raises(InputError, match="texts must be a list of texts, got str. Write"):
        ContextWindows(plain).encode("one")
    with pytest.raises(InputError, match="texts must be a list of texts, got list"):
        ContextWindows(plain).encode(["one", 2])
    with pytest.raises(
        InputError, match="A window of 4 tokens has no room beside 4 of the prompt and special tokens. Ta"
    ):
        ContextWindows(plain, window=4).encode([LONG], prompt="it is a ")
    with pytest.raises(UnsupportedModelError, match="ContextWindows needs a model whose first module is a Transformer"):
        ContextWindows(SentenceTransformer(modules=[torch.nn.Identity()], device="cpu"), window=8)


def test_chat_messages_are_refused(plain, monkeypatch):
    windows = ContextWindows(plain)
    features = {"input_ids": torch.ones(1, 3), "modality": "message"}
    monkeypatch.setattr(windows._reader, "preprocess", lambda *arguments, **options: features)
    with pytest.raises(UnsupportedModelError, match="needs a model that reads plain text, got one of chat messages"):
        windows.encode([LONG])
