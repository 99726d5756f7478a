"""The files beside the graphs, in the spelling of old readers and new ones."""

import json

import numpy as np
import pytest
from sentence_transformers.sentence_transformer.modules import (
    Pooling,
)

from st_plugins_export import OnnxEncoder, export_onnx

WIDTH = 32


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def assert_same_vectors(model, folder, texts, **options):
    expected = model.encode(texts, **options)
    np.testing.assert_allclose(OnnxEncoder(folder).encode(texts, **options), expected, atol=1e-5, rtol=0)


def test_the_tokenizer_files_carry_the_true_limit(build, tmp_path):
    model = build()
    model.max_seq_length = 9
    model.tokenizer.init_kwargs["max_length"] = 5  # left by whoever made the tokenizer; fastembed would obey it
    export_onnx(model, tmp_path / "out", show_progress=False)
    config = read_json(tmp_path / "out" / "tokenizer_config.json")
    assert config["model_max_length"] == 9
    assert "max_length" not in config
    assert read_json(tmp_path / "out" / "tokenizer.json")["truncation"]["max_length"] == 9
    assert OnnxEncoder(tmp_path / "out").max_seq_length == 9


def test_a_model_without_a_limit_is_exported_without_one(build, tmp_path):
    model = build(positions=2048)
    model.max_seq_length = int(1e30)  # what transformers says for "none"
    export_onnx(model, tmp_path / "out", show_progress=False)
    assert OnnxEncoder(tmp_path / "out").max_seq_length is None


@pytest.mark.parametrize("pooling", ["mean", "lasttoken", ("cls", "max")], ids=str)
def test_pooling_options_are_readable_by_old_and_new_releases(build, tmp_path, pooling):
    export_onnx(build(pooling=pooling), tmp_path / "out", show_progress=False)
    config = read_json(tmp_path / "out" / "1_Pooling" / "config.json")
    flags = {name for name, is_on in config.items() if is_on is True} - {"include_prompt"}
    expected = {"mean": {"pooling_mode_mean_tokens"}, "lasttoken": {"pooling_mode_lasttoken"}}
    assert flags == expected.get(pooling, {"pooling_mode_cls_token", "pooling_mode_max_tokens"})
    loaded = Pooling.load(str(tmp_path / "out" / "1_Pooling"))
    assert (loaded.pooling_mode, loaded.embedding_dimension) == (pooling, WIDTH)
