"""The zip file for OpenSearch is the same on every machine, and the one that register.json describes."""

import hashlib
import importlib.util
import io
import json
import subprocess
import sys
from zipfile import ZIP_STORED, ZipFile


def test_the_script_writes_what_register_json_describes(exported, tmp_path):
    script = exported / "serving" / "opensearch" / "make_zip.py"
    target = tmp_path / "embedding.zip"
    subprocess.run([sys.executable, "-I", "-B", script, target], check=True, cwd=tmp_path)
    entries = json.loads(script.with_name("register.json").read_text())
    content = target.read_bytes()
    assert hashlib.sha256(content).hexdigest() == entries["model_content_hash_value"]
    assert len(content) == entries["model_content_size_in_bytes"]
    with ZipFile(target) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["model.onnx", "tokenizer.json"]
        assert archive.read("model.onnx") == (exported / "onnx" / "model.onnx").read_bytes()
        for entry in archive.infolist():
            facts = (entry.date_time, entry.create_system, entry.compress_type, entry.flag_bits)
            assert facts == ((1980, 1, 1, 0, 0, 0), 3, ZIP_STORED, 0)


def test_weights_beside_the_graph_are_packed_too(exported, tmp_path):
    spec = importlib.util.spec_from_file_location("make_zip", exported / "serving" / "opensearch" / "make_zip.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    (tmp_path / "onnx").mkdir()
    for name in ("onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.json"):
        (tmp_path / name).write_text(name)
    packed = io.BytesIO()
    script.write_zip(tmp_path, packed)
    assert ZipFile(packed).namelist() == ["model.onnx", "model.onnx_data", "tokenizer.json"]
