"""What a manifest says about graphs with exits is checked as it is read."""

import json

import pytest

from st_plugins.errors import ExitError, ManifestError, UnsafeModelError
from st_plugins_export import OnnxEncoder
from st_plugins_export.layout import MANIFEST_FILE, exit_file, read_manifest


def edit(folder, change):
    path = folder / MANIFEST_FILE
    entries = json.loads(path.read_text(encoding="utf-8"))
    change(entries)
    path.write_text(json.dumps(entries), encoding="utf-8")


def test_exits_survive_writing_and_reading(leaving, exported_exits):
    exits = read_manifest(exported_exits).exits
    assert [(exported.name, exported.layers) for exported in exits] == [
        ("gate", (1, 2, 3)),
        ("saturation", (1, 2, 3)),
        (None, (1, 2, 3)),
    ]
    assert [exported.file for exported in exits] == [exit_file(name) for name in ("gate", "saturation", None)]
    assert exits[0].policy == leaving[0].exit_policies["gate"].as_dict()
    assert (exits[2].policy, exits[2].fingerprint) == (None, None)
    assert all(exported.dim == 32 and exported.trained_dims == (8, 16) for exported in exits)


def test_a_manifest_without_exits_is_what_it_was_before_there_were_any(exported):
    assert "exits" not in json.loads((exported / MANIFEST_FILE).read_text(encoding="utf-8"))
    assert read_manifest(exported).exits == ()
    with pytest.raises(ExitError, match=r"one of the exported policies, \[\], got 'gate'"):
        OnnxEncoder(exported).encode(["a"], exit="gate")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry: entry.pop("dim"), "must have exactly the entries .* for ExportedExit"),
        (lambda entry: entry.update(name=3), "has 3 for 'name'"),
        (lambda entry: entry.update(layers=["1"]), "has '1' for 'layers'"),
        (lambda entry: entry.update(layers=3), "has 3 for 'layers'"),
        (lambda entry: entry.update(trained_dims=[None]), "has None for 'trained_dims'"),
        (lambda entry: entry.update(fingerprint=3), "has 3 for 'fingerprint'"),
        (lambda entry: entry.update(policy=[]), r"has \[\] for 'policy'"),
        (lambda entry: entry.update(padded_because=None), "has None for 'padded_because'"),
        (lambda entry: entry.update(dim="32"), "has '32' for 'dim'"),
        (lambda entry: entry.update(file=None), "has None for 'file'"),
        (lambda entry: entry.update(dim=31), "into 'sentence_embedding' of width 31"),
        (lambda entry: entry.update(file="onnx/model_layer_per_text.onnx"), r"it turns .*'layer'\)"),
        (lambda entry: entry.update(file="onnx/model.onnx"), "must turn .* Export the model again"),
    ],
)
def test_an_entry_that_lies_is_refused(damaged_exits, change, message):
    edit(damaged_exits, lambda entries: change(entries["exits"][0]))
    with pytest.raises(ManifestError, match=message):
        OnnxEncoder(damaged_exits).encode(["a"], exit="gate")


def test_exits_must_be_a_list(damaged_exits):
    edit(damaged_exits, lambda entries: entries.update(exits={}))
    with pytest.raises(ManifestError, match="for 'exits'"):
        OnnxEncoder(damaged_exits)


def test_a_file_outside_the_folder_is_refused(damaged_exits):
    def point_elsewhere(entries):
        entries["exits"][0]["file"] = "../x.onnx"
        entries["files"]["../x.onnx"] = "0" * 64

    edit(damaged_exits, point_elsewhere)
    with pytest.raises(UnsafeModelError, match="must lie inside its folder"):
        OnnxEncoder(damaged_exits).encode(["a"], exit="gate")
