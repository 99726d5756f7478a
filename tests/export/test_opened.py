"""Texts to tokens, and one batch of tokens to vectors."""

import sys

import numpy as np
import pytest

from st_plugins.errors import InputError, MissingExtraError
from st_plugins_export import OnnxEncoder, export_onnx
from st_plugins_export.opened import OpenedExport


def test_a_batch_gives_the_vectors_of_its_texts_alone(exported):
    opened = OpenedExport(exported)
    encodings = opened.tokenize(["cats sleep", "the weather is lovely"])
    together = opened.embed(encodings, opened.manifest.full)
    for row, encoding in zip(together, encodings, strict=True):
        np.testing.assert_allclose(opened.embed([encoding], opened.manifest.full)[0], row, atol=1e-5)
    assert together.dtype == np.float32


def test_a_lone_surrogate_is_refused_with_its_position(exported):
    with pytest.raises(InputError, match="position 7 is not valid Unicode"):
        OpenedExport(exported).tokenize(["fine", "\ud800"], first_position=6)


def test_a_text_without_tokens_is_refused(build, tmp_path):
    model = build(layers=1)
    model.tokenizer.backend_tokenizer.post_processor = None  # no [CLS], no [SEP]
    export_onnx(model, tmp_path / "out", show_progress=False)
    with pytest.raises(InputError, match=r"position 1 has no tokens \(''\)"):
        OnnxEncoder(tmp_path / "out").encode(["a", ""])


@pytest.mark.parametrize("threads", [1, 2])
def test_sessions_use_as_many_threads_as_told_and_do_not_spin(exported, threads):
    opened = OpenedExport(exported, threads=threads)
    session = opened.session(opened.manifest.full)
    assert session is opened.session(opened.manifest.full)
    options = session.get_session_options()
    assert options.intra_op_num_threads == threads
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_inputs_are_padded_as_the_tokenizer_of_the_model_pads(build, tmp_path, side):
    model = build(padding_side=side, layers=1)
    export_onnx(model, tmp_path / "out", show_progress=False)
    opened = OpenedExport(tmp_path / "out")
    assert opened._has_plain_types
    for texts in (["a"], ["a", "the weather is lovely", "cats"]):
        expected = {key: value.tolist() for key, value in model.preprocess(texts).items() if hasattr(value, "tolist")}
        for has_plain_types in (True, False):
            opened._has_plain_types = has_plain_types
            found = opened.inputs(opened.tokenize(texts))
            assert {name: array.tolist() for name, array in found.items()} == expected


@pytest.mark.parametrize("package", ["onnxruntime", "tokenizers"])
def test_a_missing_package_is_named_with_its_extra(exported, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)  # as good as not installed
    with pytest.raises(MissingExtraError, match=rf"'{package}'.*pip install 'st-plugins\[onnx\]'"):
        OnnxEncoder(exported)
