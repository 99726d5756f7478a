import pytest

from st_plugins.backends import backend_of, open_encoder
from st_plugins.errors import PrecisionError, ProviderError, UnsupportedModelError
from st_plugins_export import export_onnx


def test_onnx_needs_an_export(tmp_path):
    with pytest.raises(UnsupportedModelError, match=r'backend="onnx" needs a folder .* has no manifest\.json\. Export'):
        open_encoder(str(tmp_path), backend="onnx")


def test_a_backend_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UnsupportedModelError, match="backend must be one of auto, torch, onnx, got 'onx'"):
        open_encoder(str(tmp_path), backend="onx")


def test_precisions_are_for_exports(tmp_path):
    with pytest.raises(PrecisionError, match=r"precision is for backend=\"onnx\", got 'int8' for .* Export the model"):
        open_encoder(str(tmp_path), precision="int8")


def test_a_folder_is_opened_as_what_it_is(model, tmp_path):
    model.save_pretrained(str(tmp_path / "torch"))
    export_onnx(model, tmp_path / "onnx")
    torch_vector = open_encoder(str(tmp_path / "torch"), device="cpu", threads=1).encode("the cat")
    onnx_vector = open_encoder(str(tmp_path / "onnx"), device="cpu", threads=1).encode("the cat")
    assert abs(torch_vector - onnx_vector).max() < 1e-6
    with pytest.raises(PrecisionError, match="int8"):
        open_encoder(str(tmp_path / "onnx"), precision="int8")
    with pytest.raises(ProviderError, match="cuda"):
        open_encoder(str(tmp_path / "onnx"), device="cuda")


def test_auto_means_what_the_folder_is(tmp_path):
    assert backend_of(str(tmp_path), "auto") == "torch"
    (tmp_path / "manifest.json").touch()
    assert [backend_of(str(tmp_path), backend) for backend in ("auto", "onnx", "torch")] == ["onnx", "onnx", "torch"]
