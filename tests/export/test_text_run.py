"""One call: order, chunks, workers and the position of a text that fails."""

import numpy as np
import pytest

from st_plugins.errors import InputError
from st_plugins_export.opened import OpenedExport
from st_plugins_export.text_run import encode_texts

OPTIONS = {"token_budget": 30, "batch_size": None, "workers": 1, "show_progress_bar": False}


@pytest.fixture(scope="module")
def opened(exported):
    return OpenedExport(exported, threads=1)


@pytest.fixture(scope="module")
def many(texts):
    return [f"{text} {i}" for i, text in enumerate(texts * 5)]


def test_workers_and_chunks_change_nothing(opened, many, plain, monkeypatch):
    size = opened.manifest.full
    expected = np.concatenate([opened.embed(opened.tokenize([text]), size) for text in many])
    lengths = [len(ids) for ids in plain.tokenizer(many, truncation=False)["input_ids"]]
    for chunk in (8192, 7, 1):
        monkeypatch.setattr("st_plugins_export.text_run._CHUNK", chunk)
        for workers in (1, 3):
            run = encode_texts(opened, many, size, size.dim, None, **{**OPTIONS, "workers": workers})
            np.testing.assert_allclose(run[0], expected, atol=1e-6, rtol=0)
            assert run[1].tolist() == [3] * len(many)
            assert run[2] == sum(length > 24 for length in lengths)


def test_errors_name_the_text_also_from_another_thread(opened):
    texts = ["a", "cats"] * 20
    texts[27] = "\ud800"
    with pytest.raises(InputError, match="position 27 is not valid Unicode"):
        encode_texts(opened, texts, opened.manifest.full, 32, None, **{**OPTIONS, "workers": 3})


def test_a_bar_counts_texts(opened, many, capsys):
    encode_texts(opened, many, opened.manifest.full, 32, None, **{**OPTIONS, "show_progress_bar": True, "workers": 2})
    assert f"{len(many)}/{len(many)}" in capsys.readouterr().err
