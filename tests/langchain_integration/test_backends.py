import pytest

from langchain_st_plugins import ElasticEmbeddings
from langchain_st_plugins.backends import open_encoder


def test_onnx_needs_an_export(tmp_path):
    with pytest.raises(ValueError, match=r'backend="onnx" needs a folder .* has no manifest\.json\. Export the model'):
        open_encoder(str(tmp_path), backend="onnx", device=None, threads=None)
    with pytest.raises(ValueError, match=r'backend="onnx" needs a folder'):
        ElasticEmbeddings(model="some/hub-id", backend="onnx").embed_query("a")


def test_a_device_is_for_torch(tmp_path):
    (tmp_path / "manifest.json").touch()
    with pytest.raises(ValueError, match=r'device is for backend="torch", got \'cuda\' for the export'):
        open_encoder(str(tmp_path), backend="auto", device="cuda", threads=None)
