"""The files beside the graphs, in the spelling of old readers and new ones."""

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling
from transformers import AutoConfig

from export_cases import read_json
from st_plugins_export import OnnxEncoder, export_onnx
from st_plugins_export.sidecars import write_sidecars

WIDTH = 32


def test_the_tokenizer_files_carry_the_true_limit(build, tmp_path):
    model = build(layers=1)
    model.max_seq_length = 9
    model.tokenizer.init_kwargs["max_length"] = 5  # left by whoever made the tokenizer; fastembed would obey it
    export_onnx(model, tmp_path / "out", show_progress=False)
    config = read_json(tmp_path / "out" / "tokenizer_config.json")
    assert config["model_max_length"] == 9
    assert "max_length" not in config
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"  # transformers 4 knows no TokenizersBackend
    assert read_json(tmp_path / "out" / "tokenizer.json")["truncation"]["max_length"] == 9
    assert OnnxEncoder(tmp_path / "out").max_seq_length == 9


def test_a_model_without_a_limit_is_exported_without_one(build, tmp_path):
    model = build(positions=2048, layers=1)
    model.max_seq_length = int(1e30)  # what transformers says for "none"
    export_onnx(model, tmp_path / "out", show_progress=False)
    assert OnnxEncoder(tmp_path / "out").max_seq_length is None


def test_a_model_without_a_limit_names_none(build, tmp_path):
    model = build(layers=1)
    model.max_seq_length = int(1e30)
    write_sidecars(model, tmp_path)
    assert not (tmp_path / "sentence_bert_config.json").exists()  # "max_seq_length": null is an error to TEI
    assert "max_length" not in (read_json(tmp_path / "tokenizer.json")["truncation"] or {})


@pytest.mark.parametrize("pooling", ["mean", "lasttoken", ("cls", "max")], ids=str)
def test_pooling_options_are_readable_by_old_and_new_releases(build, tmp_path, pooling):
    write_sidecars(build(pooling=pooling), tmp_path, "tokens")
    config = read_json(tmp_path / "1_Pooling" / "config.json")
    flags = {name for name, is_on in config.items() if is_on is True} - {"include_prompt"}
    expected = {"mean": {"pooling_mode_mean_tokens"}, "lasttoken": {"pooling_mode_lasttoken"}}
    assert flags == expected.get(pooling, {"pooling_mode_cls_token", "pooling_mode_max_tokens"})
    loaded = Pooling.load(str(tmp_path / "1_Pooling"))
    assert (loaded.pooling_mode, loaded.embedding_dimension) == (pooling, WIDTH)


# Poolings that keep a repeated vector as it is, and that every server knows, stay; all else becomes the mean.
LEFT = {"mean": "mean", "cls": "cls", "lasttoken": "lasttoken", "mean_sqrt_len_tokens": "mean", ("cls", "max"): "mean"}


@pytest.mark.parametrize("pooling", LEFT, ids=str)
def test_portable_modules_are_those_that_are_left_to_do(build, tmp_path, pooling):
    model = build(pooling=pooling, behind=[Dense(len(np.atleast_1d(pooling)) * WIDTH, 12), Normalize()], layers=1)
    write_sidecars(model, tmp_path)
    names = [entry["type"].rsplit(".")[-1] for entry in read_json(tmp_path / "modules.json")]
    assert names == ["Transformer", "Pooling", "Normalize"]
    loaded = Pooling.load(str(tmp_path / "1_Pooling"))
    assert (loaded.pooling_mode, loaded.embedding_dimension) == (LEFT[pooling], 12)
    vectors, mask = torch.randn(2, 12), torch.tensor([[1, 1, 1], [1, 0, 0]])
    found = loaded({"token_embeddings": vectors[:, None].expand(-1, 3, -1), "attention_mask": mask})
    torch.testing.assert_close(found["sentence_embedding"], vectors)


def test_vectors_that_were_cut_behind_the_normalization_are_not_normalized_again(build, tmp_path):
    model = build(behind=[Normalize()], layers=1)
    model.truncate_dim = 8
    write_sidecars(model, tmp_path)
    assert [entry["path"] for entry in read_json(tmp_path / "modules.json")] == ["", "1_Pooling"]


def test_the_configuration_has_the_names_that_servers_ask_for(build, tmp_path):
    write_sidecars(build(family="distilbert"), tmp_path)
    config = read_json(tmp_path / "config.json")  # DistilBERT itself says dim, n_layers, n_heads
    expected = {"hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 2, "max_position_embeddings": 64}
    assert {name: config[name] for name in expected} == expected
    assert (config["architectures"], config["model_type"]) == (["DistilBertModel"], "distilbert")
    assert config["pad_token_id"] == 0
    assert AutoConfig.from_pretrained(tmp_path).dim == WIDTH
