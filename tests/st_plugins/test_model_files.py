import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from st_plugins.errors import UnsafeModelError
from st_plugins.model_files import MOST_BYTES_OF_JSON, check_places, check_weights, inner_path, read_json


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 200_000, b'{"a": ' * 200_000, b""])
def test_damaged_json_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UnsafeModelError, match=r"config\.json must be JSON, but it is damaged"):
        read_json(tmp_path / "config.json")


def test_json_without_end_is_refused_before_it_is_read(tmp_path):
    file = tmp_path / "config.json"
    with file.open("wb") as content:
        content.truncate(MOST_BYTES_OF_JSON + 2**20)  # a hole: no byte of it is written
    for check in (lambda: read_json(file), lambda: check_places(tmp_path, [file], tmp_path)):
        with pytest.raises(UnsafeModelError, match=r"config\.json may have 64 MiB, it has 65"):
            check()


def test_paths_stay_inside_and_can_be_read():
    assert inner_path("1_Pooling/route", "1") == Path("1_Pooling/route")
    for path in ("../x", "/etc", "a/../../x", "..\\x", "C:/x"):
        with pytest.raises(UnsafeModelError, match="must lie inside the model folder"):
            inner_path(path, "1")
    for path in ("a\0b", "a\u202egpj.exe", "a\nb", "\u200b", "x" * 256, "é" * 128, "\ud800"):
        with pytest.raises(UnsafeModelError, match="names of up to 255 visible characters"):
            inner_path(path, "1")


def test_hard_links_may_stay_inside_but_not_lead_out(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a.json").write_text("{}")
    os.link(folder / "a.json", folder / "b.json")
    check_places(folder, folder.iterdir(), folder)
    os.link(folder / "a.json", tmp_path / "c.json")
    with pytest.raises(UnsafeModelError, match=r"[ab]\.json is a hard link to a file elsewhere"):
        check_places(folder, folder.iterdir(), folder)
    check_places(folder, folder.iterdir(), tmp_path)  # the hub's cache


def test_pipes_are_refused_before_they_are_opened(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(UnsafeModelError, match=r"config\.json is a pipe or a device"):
        check_places(tmp_path, tmp_path.iterdir(), tmp_path)


@pytest.mark.parametrize(
    "index", ["[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": []}}']
)
def test_an_index_of_another_form_is_refused(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UnsafeModelError, match="must have a weight_map of file names, and has none"):
        check_weights(tmp_path)


@pytest.mark.parametrize("shard", ["../x", "/etc/passwd", "a\0", "missing", "x" * 300])
def test_shards_lie_beside_their_index(tmp_path, shard):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(UnsafeModelError, match="names the weights .* which are not beside it"):
        check_weights(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"num_hidden_layers": 10**5},
        {"hidden_size": 10**12},
        {"text_config": {"d_model": 10**9}},
        {"list": [{"vocab_size": 1e30}]},
    ],
)
def test_a_configuration_claims_no_more_than_its_weights_could_fill(tmp_path, config):
    save_file({"a": torch.zeros(4, 100)}, tmp_path / "model.safetensors")
    ordinary = {"num_hidden_layers": 48, "max_window_layers": 28, "hidden_size": 4096, "layer_norm_eps": 1e-12,
                "rope_theta": 10**6, "sliding_window": None, "x": float("inf")}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(ordinary))
    check_weights(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsafeModelError, match="1 tensors of dimensions up to 100, cannot be of such a model"):
        check_weights(tmp_path)


def test_a_configuration_does_not_choose_code_from_the_hub(tmp_path):
    save_file({"a": torch.zeros(4)}, tmp_path / "model.safetensors")
    for key in ("attn_implementation", "_attn_implementation"):
        (tmp_path / "config.json").write_text(json.dumps({"text_config": {key: "kernels-community/x"}}))
        with pytest.raises(UnsafeModelError, match="may not choose code from the hub, got 'kernels-community/x'"):
            check_weights(tmp_path)


@pytest.mark.parametrize("method", ["push_to_hub", "save_pretrained", "forward ", 3, None])
def test_a_configuration_calls_nothing_of_a_network_but_what_embeds(tmp_path, method):
    config = {"modality_config": {"text": {"method": "forward"}, "image": {"method": "get_image_features"}}}
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps(config))
    check_weights(tmp_path)
    config["modality_config"]["text"]["method"] = method
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps(config))
    with pytest.raises(UnsafeModelError, match=r"may call forward or get_\.\.\._features of a network, got the method"):
        check_weights(tmp_path)


@pytest.mark.parametrize("modalities", [{}, [], None, {"txt": {"method": "forward"}}, {"": {}}, {"text9": {}}])
def test_a_model_takes_what_there_is(tmp_path, modalities):
    both = {"text": {"method": "forward"}, "image+text": {"method": "forward"}}
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"modality_config": both}))
    check_weights(tmp_path)
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"modality_config": modalities}))
    with pytest.raises(UnsafeModelError, match="modality_config must name some of text, image, audio, video, message"):
        check_weights(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"module_output_name": "oken_embeddings"},
        {"module_output_name": []},
        {"modality_config": {"text": {"method": "forward", "method_output_name": False}}},
        {"modality_config": {"text": {"method": "forward", "method_output_name": "ast_hidden_state"}}},
        {"modality_config": {"text": {"method": "forward", "method_output_name": None}}},
        {"modality_config": {"text": {"method": "forward", "method_output_name": []}}},
        {"modality_config": {"text": {"method": "forward", "method_output_name": "hidden_states"}}},
    ],
    ids=str,
)
def test_outputs_are_known_ones(tmp_path, changed):
    good = {"modality_config": {"text": {"method": "forward", "method_output_name": ["hidden_states", -1]}}}
    good |= {"module_output_name": "token_embeddings"}
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps(good))
    check_weights(tmp_path)
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({**good, **changed}))
    with pytest.raises(UnsafeModelError, match=r"(module|method)_output_name must .* Save the model again"):
        check_weights(tmp_path)
