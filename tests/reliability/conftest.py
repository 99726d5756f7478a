"""What the tests of reliability share: a saved model to spoil, its export, and the words both know."""

import shutil
from pathlib import Path

import pytest

import st_plugins
from st_plugins_export import export_onnx

SIZES = [(2, 16), (2, 8), (4, 8)]


@pytest.fixture(scope="session")
def _saved_once(tmp_path_factory, _tiny):
    folder = tmp_path_factory.mktemp("reliability") / "model"
    st_plugins.elastic(_tiny, sizes=SIZES).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def _exported_once(tmp_path_factory, _tiny):
    folder = tmp_path_factory.mktemp("reliability-onnx") / "export"
    export_onnx(st_plugins.elastic(_tiny, sizes=SIZES), folder, sizes=[(2, 16)], show_progress=False)
    return folder


@pytest.fixture
def saved(_saved_once, tmp_path):
    """The folder of a tiny elastic model, to spoil."""
    return Path(shutil.copytree(_saved_once, tmp_path / "model"))


@pytest.fixture
def exported(_exported_once, tmp_path):
    """An export of the same model, to spoil."""
    return Path(shutil.copytree(_exported_once, tmp_path / "export"))
