"""A manifest read as if the export had one precision."""

import pytest

from st_plugins.errors import PrecisionError
from st_plugins_export.layout import read_manifest


def test_one_precision_of_an_export_is_an_export(lowered):
    manifest = read_manifest(lowered[0])
    half = manifest.at("fp16")
    assert half.precisions == ("fp16",)
    assert half.full.file == "onnx/model_fp16.onnx"
    assert {graph.precision for graph in (*half.sizes, *half.exits)} == {"fp16"}
    assert half.files == manifest.files
    assert manifest.at("fp32").full == manifest.full


def test_a_precision_it_does_not_have_is_refused(exported):
    manifest = read_manifest(exported)
    assert manifest.at("fp32") == manifest
    with pytest.raises(PrecisionError, match=r"one of those exported, \['fp32'\], got 'int3'"):
        manifest.at("int3")
