"""Weights beside the graphs: each tensor once, found by every reader of ONNX, and nothing else is ever read."""

import copy
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers

from st_plugins.errors import ExportError, ManifestError, UnsafeModelError
from st_plugins_export import OnnxEncoder, export_onnx
from st_plugins_export.external_data import DATA_FILE, GraphWriter

MODEL = "onnx/model.onnx"


@pytest.fixture(scope="module")
def beside(leaving, tmp_path_factory):
    """Three sizes and an exit graph over one file of weights. Read only."""
    folder = tmp_path_factory.mktemp("beside") / "out"
    sizes = [(2, 16), (1, 8)]
    export_onnx(leaving, folder, sizes=sizes, exits=["gate"], external_data=True, show_progress=False)
    return folder


@pytest.fixture
def spoiled(beside, tmp_path):
    """A copy for a test to spoil."""
    return Path(shutil.copytree(beside, tmp_path / "spoiled"))


def edit_manifest(folder, change):
    path = folder / "manifest.json"
    entries = json.loads(path.read_text(encoding="utf-8"))
    change(entries)
    path.write_text(json.dumps(entries), encoding="utf-8")


def accept(folder, name):
    """Put the hash of a changed file into the manifest, as whoever changed the file would."""
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    edit_manifest(folder, lambda entries: entries["files"].update({name: digest}))


def encode(folder):
    return OnnxEncoder(folder).encode(["cats sleep"])


def test_all_graphs_give_the_vectors_of_torch(leaving, beside, texts):
    encoder = OnnxEncoder(beside)
    for options in ({}, {"layer": 2, "truncate_dim": 16}, {"layer": 1, "truncate_dim": 8}, {"exit": "gate"}):
        expected = leaving.encode(texts, **options)
        np.testing.assert_allclose(encoder.encode(texts, **options), expected, atol=1e-5, rtol=0)


def test_every_tensor_is_written_once(beside):
    graphs = sorted(path for path in (beside / "onnx").iterdir() if path.suffix == ".onnx")
    assert len(graphs) == 4
    places = set()
    for path in graphs:
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                entries = {entry.key: entry.value for entry in tensor.external_data}
                assert entries["location"] == "model.onnx_data"
                assert int(entries["offset"]) % 4096 == 0
                places.add((int(entries["offset"]), int(entries["length"])))
    content = (beside / DATA_FILE).read_bytes()
    tensors = {content[offset : offset + length] for offset, length in places}
    assert len(tensors) == len(places)
    assert len(content) == max(offset + length for offset, length in places)


def test_readers_that_open_files_by_path_find_the_weights(beside, leaving):
    session = onnxruntime.InferenceSession(str(beside / MODEL), providers=["CPUExecutionProvider"])
    features = leaving.preprocess(["cats sleep"])
    names = [tensor.name for tensor in session.get_inputs()]
    found = session.run(["sentence_embedding"], {name: features[name].numpy() for name in names})[0]
    np.testing.assert_allclose(found, leaving.encode(["cats sleep"]), atol=1e-5)
    config = json.loads((beside / "config.json").read_text())
    assert config["transformers.js_config"] == {"use_external_data_format": {"model.onnx": True}}
    onnx.checker.check_model(str(beside / "onnx" / "model_exit_gate.onnx"), full_check=True)


def test_by_default_small_models_are_whole(exported):
    assert not (exported / DATA_FILE).exists()
    entries = json.loads((exported / "manifest.json").read_text())
    assert "external_data" not in entries
    assert "transformers.js_config" not in json.loads((exported / "config.json").read_text())


def test_automatic_files_are_whole_until_one_is_too_large(plain, tmp_path, monkeypatch):
    graph = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, 512] x) => (float[N, 512] y) { y = Mul(x, w) }'
    )
    tensor = onnx.numpy_helper.from_array(np.ones((1, 512), np.float32), "w")
    graph.graph.initializer.append(tensor)
    (tmp_path / "onnx").mkdir()
    monkeypatch.setattr("st_plugins_export.external_data.MOST_BYTES", 2048)
    writer = GraphWriter(tmp_path)
    writer.save(copy.deepcopy(graph), tmp_path / "onnx" / "fits.onnx")
    assert writer.beside == {}
    monkeypatch.setattr("st_plugins_export.external_data.MOST_BYTES", 2047)
    writer.save(copy.deepcopy(graph), tmp_path / "onnx" / "too_large.onnx")
    assert writer.beside == {"onnx/too_large.onnx": DATA_FILE}
    monkeypatch.setattr("st_plugins_export.external_data.MOST_BYTES_OF_A_TENSOR", 2047)
    with pytest.raises(ExportError, match=r"One tensor may have 2 GiB, and w \[1, 512\] has 0\.0 GiB"):
        GraphWriter(tmp_path).save(copy.deepcopy(graph), tmp_path / "onnx" / "one_tensor.onnx")
    with pytest.raises(ExportError, match=r"less than 2 GiB of weights.*external_data='auto'"):
        GraphWriter(tmp_path, external_data=False).save(graph, tmp_path / "onnx" / "whole.onnx")


@pytest.mark.parametrize("choice", ["always", None, 1, 0])
def test_other_choices_are_refused(plain, tmp_path, choice):
    with pytest.raises(ValueError, match="external_data must be True, False or 'auto', got"):
        export_onnx(plain, tmp_path / "out", external_data=choice)


def test_damage_is_found_before_anything_is_opened(spoiled):
    data = spoiled / DATA_FILE
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(ManifestError, match=r"model\.onnx_data is not the file that was exported"):
        encode(spoiled)
    data.write_bytes(content[:100])
    with pytest.raises(ManifestError, match=r"model\.onnx_data is not the file that was exported"):
        encode(spoiled)
    data.write_bytes(b"")
    accept(spoiled, DATA_FILE)
    with pytest.raises(ManifestError, match=r"cannot open .*model\.onnx"):
        encode(spoiled)
    data.unlink()
    with pytest.raises(ManifestError, match=r"model\.onnx_data is missing"):
        encode(spoiled)
    edit_manifest(spoiled, lambda entries: entries["files"].pop(DATA_FILE))
    with pytest.raises(ManifestError, match=r"must list onnx/model\.onnx_data under 'files'"):
        encode(spoiled)


def test_links_are_refused(spoiled, tmp_path):
    outside = tmp_path / "outside"
    (spoiled / DATA_FILE).rename(outside)
    (spoiled / DATA_FILE).symlink_to(outside)
    with pytest.raises(UnsafeModelError, match=r"model\.onnx_data is a symbolic link"):
        encode(spoiled)
    (spoiled / DATA_FILE).unlink()
    os.link(outside, spoiled / DATA_FILE)
    with pytest.raises(UnsafeModelError, match=r"model\.onnx_data is a hard link"):
        encode(spoiled)


@pytest.mark.parametrize("name", ["../model.onnx_data", "/etc/passwd", "onnx/../../x"])
def test_weights_outside_the_folder_are_refused(spoiled, name):
    def point_elsewhere(entries):
        entries["external_data"][MODEL] = name
        entries["files"][name] = "0" * 64

    edit_manifest(spoiled, point_elsewhere)
    with pytest.raises(UnsafeModelError, match="must lie inside its folder"):
        encode(spoiled)


def _first_external(model):
    return next(tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL)


def _set(**values):
    def change(model):
        for entry in _first_external(model).external_data:
            entry.value = str(values.get(entry.key, entry.value))

    return change


def _inject(model):
    """CVE-2026-34445: entries that would overwrite attributes of the reader."""
    for key, value in (("basepath", "/"), ("data_type", "7"), ("__class__", "x")):
        _first_external(model).external_data.add(key=key, value=value)


def _giant(model):
    del _first_external(model).dims[:]
    _first_external(model).dims.extend([2**40, 2**20])


@pytest.mark.parametrize(
    "change",
    [
        _set(location="../outside"),
        _set(location="/etc/passwd"),
        _set(location="secret"),
        _set(location=""),
        _set(location="*/_ORT_MEM_ADDR_/*"),
        _set(offset=10**9),
        _set(offset=-4096),
        _set(offset=2**64 - 4096),
        _set(offset="here"),
        _set(length=4),
        _set(length=10**12),
        _inject,
        _giant,
    ],
    ids=[
        *("..", "absolute", "other file", "empty base", "memory"),
        *("offset behind the end", "offset before the start", "offset overflow", "offset no number"),
        *("length short", "length long", "attribute injection", "giant dims"),
    ],
)
def test_a_hostile_graph_reads_nothing_but_its_weights(spoiled, change):
    (spoiled / "onnx" / "secret").write_bytes((spoiled / DATA_FILE).read_bytes())
    (spoiled / "outside").write_bytes((spoiled / DATA_FILE).read_bytes())
    model = onnx.load(spoiled / MODEL, load_external_data=False)
    change(model)
    (spoiled / MODEL).write_bytes(model.SerializeToString())
    accept(spoiled, MODEL)
    with pytest.raises(ManifestError, match=r"cannot open .*model\.onnx"):
        encode(spoiled)


def _secret():
    tensor = TensorProto(name="secret", data_type=TensorProto.FLOAT, dims=[8], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "secret"), ("offset", "0"), ("length", "32")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _in_a_constant(graph):
    graph.node.append(onnx.helper.make_node("Constant", [], ["secret"], value=_secret()))


def _in_a_constant_that_goes_out(graph):
    _in_a_constant(graph)
    graph.node.append(onnx.helper.make_node("Identity", ["secret"], ["leak"]))
    graph.output.append(onnx.helper.make_tensor_value_info("leak", TensorProto.FLOAT, [8]))


def _in_a_branch(graph):
    inner = next(attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g"))
    inner.initializer.append(_secret())


def _in_a_constant_of_a_branch(graph):
    _in_a_constant(next(attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")))


@pytest.mark.parametrize("hide", [_in_a_constant_that_goes_out, _in_a_branch, _in_a_constant_of_a_branch])
def test_weights_elsewhere_are_found_wherever_they_hide(spoiled, hide, monkeypatch):
    monkeypatch.chdir(spoiled / "onnx")  # onnxruntime would look here
    (spoiled / "onnx" / "secret").write_bytes(bytes(32))
    name = "onnx/model_exit_gate.onnx"
    model = onnx.load(spoiled / name, load_external_data=False)
    hide(model.graph)
    (spoiled / name).write_bytes(model.SerializeToString())
    accept(spoiled, name)
    with pytest.raises(ManifestError, match=r"cannot open .*model_exit_gate\.onnx"):
        OnnxEncoder(spoiled).encode(["cats sleep"], exit="gate")


@pytest.mark.slow
def test_a_model_of_more_than_two_gigabytes(tmp_path):
    words = Tokenizer(models.WordLevel({f"w{index}": index for index in range(300_000)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    embedding = StaticEmbedding(words, embedding_weights=torch.randn(300_000, 1000))
    wide = [Dense(1000, 140_000, activation_function=torch.nn.ReLU()), Dense(140_000, 1000)]
    model = SentenceTransformer(modules=[embedding, *wide, Normalize()], device="cpu")
    with pytest.raises(ExportError, match="the model has 2.2 GiB"):
        export_onnx(model, tmp_path / "whole", external_data=False, show_progress=False)
    export_onnx(model, tmp_path / "out", show_progress=False)
    assert (tmp_path / "out" / DATA_FILE).stat().st_size > 2**31
    texts = ["w1 w599999", "w300000"]
    np.testing.assert_allclose(OnnxEncoder(tmp_path / "out").encode(texts), model.encode(texts), atol=1e-5, rtol=0)
