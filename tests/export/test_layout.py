"""The folder: complete and unchanged, or refused before anything in it is opened."""

import hashlib
import json
import os
import random

import onnx
import pytest
from tokenizers import Tokenizer

from st_plugins.errors import ManifestError, StPluginsError, UnsafeModelError
from st_plugins_export import OnnxEncoder
from st_plugins_export.layout import MANIFEST_FILE, read_manifest


def edit(folder, change):
    """Change the manifest and return what the change returns."""
    path = folder / MANIFEST_FILE
    entries = json.loads(path.read_text(encoding="utf-8"))
    change(entries)
    path.write_text(json.dumps(entries), encoding="utf-8")


def accept(folder, name):
    """Put the hash of a changed file into the manifest, as whoever changed the file would."""
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    edit(folder, lambda entries: entries["files"].update({name: digest}))


def encode(folder):
    return OnnxEncoder(folder).encode(["a"])


def test_a_manifest_survives_writing_and_reading(exported):
    manifest = read_manifest(exported)
    assert manifest.full.file == "onnx/model.onnx"
    assert manifest.sizes[1].trained_dims == (8,)
    assert manifest.probes[0].text == "a"
    assert len(manifest.probes[0].embedding) == manifest.full.dim
    assert set(manifest.files) == {
        path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()
    } - {MANIFEST_FILE}


@pytest.mark.parametrize(
    "name",
    ["../model.onnx", "/etc/passwd", "onnx/../../model.onnx", "..\\model.onnx", "C:model.onnx", "", "a\0b", "//x/y"],
)
def test_names_that_lead_out_of_the_folder_are_refused(damaged, name):
    def point_elsewhere(entries):
        entries["sizes"][0]["file"] = name
        entries["files"][name] = "0" * 64

    edit(damaged, point_elsewhere)
    with pytest.raises(UnsafeModelError, match="must lie inside its folder"):
        encode(damaged)


@pytest.mark.parametrize("name", ["onnx/model.onnx", "tokenizer.json", "manifest.json"])
def test_links_are_refused(damaged, tmp_path, name):
    outside = tmp_path / "outside"
    (damaged / name).rename(outside)
    (damaged / name).symlink_to(outside)
    with pytest.raises(UnsafeModelError, match=r"is a symbolic link.*cp -rL"):
        encode(damaged)
    (damaged / name).unlink()
    os.link(outside, damaged / name)
    with pytest.raises(UnsafeModelError, match="is a hard link to another file"):
        encode(damaged)


def test_a_linked_folder_is_refused(damaged, tmp_path):
    (damaged / "onnx").rename(tmp_path / "elsewhere")
    (damaged / "onnx").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeModelError, match="onnx is a symbolic link"):
        encode(damaged)


@pytest.mark.parametrize("name", ["onnx/model.onnx", "tokenizer.json"])
def test_changed_missing_and_unlisted_files_are_refused(damaged, name):
    content = bytearray((damaged / name).read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / name).write_bytes(content)
    with pytest.raises(ManifestError, match=r"is not the file that was exported \(its SHA-256 differs"):
        encode(damaged)
    (damaged / name).unlink()
    with pytest.raises(ManifestError, match="is missing"):
        encode(damaged)
    edit(damaged, lambda entries: entries["files"].pop(name))
    with pytest.raises(ManifestError, match=f"must list {name} under 'files'"):
        encode(damaged)


def test_only_the_graph_in_use_is_hashed(damaged):
    (damaged / "onnx" / "model_L2_D16.onnx").write_bytes(b"changed")
    encode(damaged)
    with pytest.raises(ManifestError, match="is not the file that was exported"):
        OnnxEncoder(damaged).encode(["a"], layer=2, truncate_dim=16)


def test_a_folder_that_is_no_export_is_refused(tmp_path):
    with pytest.raises(ManifestError, match="there is no such folder"):
        OnnxEncoder(tmp_path / "nowhere")
    with pytest.raises(ManifestError, match=r"manifest\.json is missing"):
        OnnxEncoder(tmp_path)


def test_a_manifest_of_gigabytes_is_not_read(damaged):
    with (damaged / MANIFEST_FILE).open("ab") as file:
        file.truncate(65 * 2**20)  # a sparse file
    with pytest.raises(ManifestError, match=r"manifest\.json may have 64 MiB and has more\. Do not open"):
        OnnxEncoder(damaged)


@pytest.mark.parametrize("text", ["{", "[1]", "\udcff", "[" * 200_000, "null", '{"format_version": 2}'])
def test_a_damaged_manifest_is_refused(damaged, text):
    (damaged / MANIFEST_FILE).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ManifestError, match=r"is not valid JSON|which is no|must have format version 1, got"):
        OnnxEncoder(damaged)


def rename_first(entries, name):
    """In the manifest, not on disk."""
    entries["files"][name] = entries["files"][entries["sizes"][0]["file"]]
    entries["sizes"][0]["file"] = name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entries: entries.pop("inputs"), "must have exactly the entries .* for Manifest"),
        (lambda entries: entries["sizes"][0].pop("dim"), "must have exactly the entries .* for ExportedSize"),
        (lambda entries: entries["sizes"][0].update(layer="3"), "has '3' for 'layer'"),
        (lambda entries: entries["sizes"][0].update(is_full=False), "must name exactly one full size"),
        (lambda entries: entries["sizes"][0].update(precision=3), "has 3 for 'precision'"),
        (lambda entries: entries["sizes"][0].update(padded_because=3), "has 3 for 'padded_because'"),
        (lambda entries: entries["sizes"].append(entries["sizes"][0]), "exactly one full size in each precision"),
        (lambda entries: entries["reached"].update({"onnx/model.onnx": 3}), "has 3 for 'reached'"),
        (lambda entries: entries.update(sizes=[]), "must name exactly one full size"),
        (lambda entries: entries["prompts"].update(query=3), "has 3 for 'prompts'"),
        (lambda entries: entries.update(default_prompt_name=3), "has 3 for 'default_prompt_name'"),
        (lambda entries: entries.update(include_prompt="no"), "has 'no' for 'include_prompt'"),
        (lambda entries: entries.update(special_ids=["2"]), "has '2' for 'special_ids'"),
        (lambda entries: entries.update(special_ids=2), "has 2 for 'special_ids'"),
        (lambda entries: entries.update(max_seq_length="9"), "has '9' for 'max_seq_length'"),
        (lambda entries: entries["probes"][0].pop("text"), "must have exactly the entries .* for Probe"),
        (lambda entries: entries["sizes"][0].update(dim=10**12), "into 'sentence_embedding' of width 1000000000000"),
        (lambda entries: entries["sizes"][0].update(file="x" * 5000), "must list xxx"),
        (lambda entries: rename_first(entries, "x" * 5000), "'xxxx.* names no file .File name too long"),
        (lambda entries: entries.update(inputs=["input_ids"]), r"must turn \('input_ids',\) into"),
    ],
)
def test_a_manifest_that_lies_is_refused(damaged, change, message):
    edit(damaged, change)
    with pytest.raises(ManifestError, match=message):
        encode(damaged)


def test_a_graph_with_weights_elsewhere_is_refused(damaged, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # onnxruntime would look here
    path = damaged / "onnx" / "model.onnx"
    graph = onnx.load(path)
    onnx.save(graph, tmp_path / "graph.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    path.write_bytes((tmp_path / "graph.onnx").read_bytes())
    accept(damaged, "onnx/model.onnx")
    with pytest.raises(ManifestError, match=r"cannot open .*model\.onnx: .*External data path"):
        encode(damaged)


def test_a_graph_that_is_none_is_refused(damaged):
    (damaged / "onnx" / "model.onnx").write_bytes(b"no graph")
    accept(damaged, "onnx/model.onnx")
    with pytest.raises(ManifestError, match=r"cannot open .*model\.onnx"):
        encode(damaged)


def test_a_tokenizer_that_is_none_is_refused(damaged):
    path = damaged / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.save(str(path))
    accept(damaged, "tokenizer.json")
    with pytest.raises(ManifestError, match="must say how to pad"):
        encode(damaged)
    path.write_text("{}")
    accept(damaged, "tokenizer.json")
    with pytest.raises(ManifestError, match="is no tokenizer"):
        encode(damaged)


def test_random_damage_to_the_manifest_raises_nothing_else(damaged):
    rng = random.Random(0)
    original = (damaged / MANIFEST_FILE).read_text(encoding="utf-8").replace("\n", "")
    original = original[: original.index('"probes"')] + '"probes": []}'
    for _ in range(300):
        start = rng.randrange(len(original))
        junk = rng.choice(["", "null", "-1", '"x"', "[]", "{}", "1e999", "true", "9" * 5000])
        (damaged / MANIFEST_FILE).write_text(original[:start] + junk + original[start + rng.randrange(12) :])
        try:
            read_manifest(damaged)
        except StPluginsError:
            pass


def test_a_graph_cut_short_is_refused_wherever_it_was_cut(damaged):
    path = damaged / "onnx" / "model.onnx"
    content = path.read_bytes()
    for length in (0, 1, 17, 300, len(content) // 3, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        accept(damaged, "onnx/model.onnx")
        with pytest.raises(ManifestError, match=r"cannot open .*model\.onnx"):
            encode(damaged)


@pytest.mark.parametrize("dims", [[2**60], [2**31, 2**31], [-1, 4]], ids=str)
def test_a_weight_that_claims_more_than_it_holds_is_refused(damaged, dims):
    path = damaged / "onnx" / "model.onnx"
    graph = onnx.load(path)
    del graph.graph.initializer[0].dims[:]
    graph.graph.initializer[0].dims.extend(dims)
    path.write_bytes(graph.SerializeToString())
    accept(damaged, "onnx/model.onnx")
    with pytest.raises(ManifestError, match=r"cannot open .*model\.onnx"):
        encode(damaged)


def test_onnx_itself_is_new_enough_to_stay_in_the_folder():
    assert tuple(int(part) for part in onnx.__version__.split(".")[:2]) >= (1, 23)
