"""What lies in an exported folder, and whether it computes what the model does."""

import json

import numpy as np

from st_plugins_export import OnnxEncoder


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def contents(folder):
    """The bytes of every file."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    files.pop("2_Normalize/config.json", None)  # sentence-transformers 5.7 writes none
    return files


def assert_same_vectors(model, folder, texts, **options):
    expected = model.encode(texts, **options)
    np.testing.assert_allclose(OnnxEncoder(folder).encode(texts, **options), expected, atol=1e-5, rtol=0)
