import sys

import numpy as np
import pytest

from st_plugins.errors import MissingExtraError
from st_plugins_export.extras import require


def test_an_installed_package_is_imported():
    assert require("numpy", extra="onnx") is np


def test_a_missing_package_is_named_with_the_command():
    with pytest.raises(MissingExtraError, match=r"'no_such_package'.* pip install 'st-plugins\[onnx\]'") as caught:
        require("no_such_package", extra="onnx")
    assert (caught.value.package, caught.value.extra) == ("no_such_package", "onnx")


def test_a_broken_package_raises_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("raise OSError('libcudart is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OSError, match="libcudart is missing"):
        require("broken_package", extra="onnx")
    assert "broken_package" not in sys.modules
