"""Folders made to harm whoever loads them: refused within a second, by an error of ours, and nothing of theirs runs."""

import json
import os
import pickle
import struct
import sys
import time

import pytest
import torch
import transformers

import st_plugins
from st_plugins.errors import StPluginsError, UnsafeModelError

SECONDS = 1.0


def edit(folder, file, /, **entries):
    path = folder / file
    content = json.loads(path.read_text())
    (content[1] if isinstance(content, list) else content).update(entries)
    path.write_text(json.dumps(content))


def safetensors(header, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


def sparse(path, size):
    with path.open("wb") as content:
        content.truncate(size)


class Bomb:
    def __reduce__(self):
        return os.system, ("touch sentinel",)


def pickled(name):
    def attack(folder):
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(pickle.dumps(Bomb()))

    return attack


def weights(content):
    return lambda folder: (folder / "model.safetensors").write_bytes(content)


def linked(link):
    def attack(folder):
        outside = folder.parent / "outside.json"
        outside.write_text("{}")
        (folder / "1_Pooling" / "config.json").unlink()
        link(outside, folder / "1_Pooling" / "config.json")

    return attack


TENSOR = {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}
ATTACKS = {
    "a class in the folder": lambda folder: edit(folder, "modules.json", type="evil.Module"),
    "a class of the library that is no module": lambda folder: edit(folder, "modules.json", type="os.system"),
    "a class that looks like ours": lambda folder: edit(folder, "modules.json", type="st_plugins.modul\u0435s.X"),
    "the path ..": lambda folder: edit(folder, "modules.json", path="../other"),
    "an absolute path": lambda folder: edit(folder, "modules.json", path="/etc"),
    "NUL in a path": lambda folder: edit(folder, "modules.json", path="1_Pooling\0/x"),
    "writing direction in a path": lambda folder: edit(folder, "modules.json", path="1_\u202egnilooP"),
    "a path of 10,000 characters": lambda folder: edit(folder, "modules.json", path="x" * 10_000),
    "a name with a dot": lambda folder: edit(folder, "modules.json", name="a.b"),
    "a name twice": lambda folder: edit(folder, "modules.json", name="0"),
    "a name of a method": lambda folder: edit(folder, "modules.json", name="forward"),
    "a symbolic link out": linked(lambda outside, inside: inside.symlink_to(outside)),
    "a hard link out": linked(os.link),
    "a pipe": lambda folder: os.mkfifo(folder / "preprocessor_config.json"),
    "deep JSON": lambda folder: (folder / "modules.json").write_text("[" * 10**6),
    "a deep configuration": lambda folder: (folder / "config.json").write_text('{"a":' * 10**5 + "1" + "}" * 10**5),
    "JSON of 100 MB": lambda folder: sparse(folder / "modules.json", 10**8),
    "a tokenizer of 100 MB": lambda folder: sparse(folder / "tokenizer.json", 10**8),
    "a tensor of 10^12 elements": weights(safetensors({"a": TENSOR})),
    "a header of 10^18 bytes": weights(safetensors(b"{}", length=10**18)),
    "a header of nested lists": weights(safetensors(b'{"a":' + b"[" * 10**6)),
    "negative offsets": weights(safetensors({"a": {**TENSOR, "data_offsets": [-4, 0]}})),
    "a shape that overflows": weights(safetensors({"a": {**TENSOR, "shape": [2**63, 2, 2]}})),
    "weights cut short": lambda folder: os.truncate(folder / "model.safetensors", 500),
    "weights that are a folder": lambda folder: [(folder / "model.safetensors").unlink(),
                                                 (folder / "model.safetensors").mkdir()],
    "a pickle": pickled("pytorch_model.bin"),
    "a pickle by another name": pickled("model.pt"),
    "100,000 layers": lambda folder: edit(folder, "config.json", num_hidden_layers=10**5),
    "10^12 words": lambda folder: edit(folder, "config.json", vocab_size=10**12),
    "code from the hub": lambda folder: edit(folder, "config.json", attn_implementation="evil/kernel"),
    "a method of the network": lambda folder: edit(
        folder, "sentence_bert_config.json", modality_config={"text": {"method": "push_to_hub"}}
    ),
    "no pooling": lambda folder: edit(folder, "1_Pooling/config.json", pooling_mode=[]),
    "prompts that are none": lambda folder: edit(folder, "config_sentence_transformers.json", prompts=[1]),
    "a width that is none": lambda folder: edit(folder, "config_sentence_transformers.json", truncate_dim="1"),
    "a special token that is no token": lambda folder: edit(folder, "tokenizer_config.json", pad_token="PAD]"),
    "no padding": lambda folder: edit(folder, "tokenizer_config.json", pad_token=None),
    "a limit that is none": lambda folder: edit(folder, "tokenizer_config.json", model_max_length="9"),
    "arguments that are none": lambda folder: edit(folder, "modules.json", kwargs={"a": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_in_a_second_and_nothing_runs(saved, name, monkeypatch):
    (saved / "evil.py").write_text("open('sentinel', 'w')")
    monkeypatch.syspath_prepend(saved)
    monkeypatch.chdir(saved)
    ATTACKS[name](saved)
    start = time.process_time()
    with pytest.raises(StPluginsError):
        st_plugins.load(saved, device="cpu")
    assert time.process_time() - start < SECONDS
    assert not (saved / "sentinel").exists()
    assert "evil" not in sys.modules


def test_the_sentinel_can_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Bomb()))
    assert (tmp_path / "sentinel").exists()


def test_code_that_a_configuration_names_is_not_imported(saved, monkeypatch, texts):
    """As for ``trust_remote_code=False``: transformers builds its own class and leaves the code alone."""
    (saved / "evil.py").write_text("open('sentinel', 'w')")
    monkeypatch.chdir(saved)
    edit(saved, "config.json", auto_map={"AutoModel": "evil.Model", "AutoConfig": "evil.Config"})
    edit(saved, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})
    assert st_plugins.load(saved, device="cpu").encode(texts).shape == (5, 16)
    assert not (saved / "sentinel").exists()


@pytest.mark.parametrize("entry", ["vocab_file", "tokenizer_file", "special_tokens_map_file"])
def test_files_that_a_configuration_names_are_not_opened(saved, tmp_path, texts, entry):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "model.safetensors").write_text("{}")
    (outside / "some.json").write_text("{}")
    edit(saved, "tokenizer_config.json", **{entry: str(outside / "some.json")})
    edit(saved, "config.json", _name_or_path=str(outside))
    opened = []
    _watchers.append(opened)
    try:
        assert st_plugins.load(saved, device="cpu").encode(texts).shape == (5, 16)
    except UnsafeModelError:  # transformers 4 looks for that tokenizer inside the folder, and has none then
        assert entry == "tokenizer_file"
        assert transformers.__version__ < "5"
    finally:
        _watchers.clear()
    assert any(str(path).startswith(str(saved)) for path in opened)
    assert [path for path in opened if str(path).startswith(str(outside))] == []


_watchers = []
sys.addaudithook(lambda event, found: [watcher.append(found[0]) for watcher in _watchers] if event == "open" else None)


def test_a_bad_weight_is_found_when_it_is_used(saved):
    from safetensors.torch import load_file, save_file

    content = load_file(saved / "model.safetensors")
    name = next(name for name in content if "layer.1" in name and name.endswith("dense.weight"))
    content[name][0, 0] = torch.inf
    save_file(content, saved / "model.safetensors", metadata={"format": "pt"})
    model = st_plugins.load(saved, device="cpu")
    with pytest.raises(StPluginsError, match="One bad number among the weights is enough"):
        model.encode(["the cat"])


def test_an_error_of_the_folder_is_not_one_of_the_arguments(saved):
    with pytest.raises(UnsafeModelError, match=r"'0' \(ElasticTransformer\) cannot be built .* look at the arguments"):
        st_plugins.load(saved, device="cpu", model_kwargs={"dtype": "float3"})
