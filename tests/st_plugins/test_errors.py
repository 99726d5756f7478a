import re

import pytest

from st_plugins import errors


def test_the_drawn_tree_is_the_real_one():
    drawn = re.findall(r"^ *(?:[│ ]*[├└]── )?(\w+Error)\b", errors.__doc__, re.MULTILINE)
    classes = [name for name, value in vars(errors).items() if isinstance(value, type)]
    assert sorted(drawn) == sorted(classes)


@pytest.mark.parametrize("name", [n for n, v in vars(errors).items() if isinstance(v, type) and n != "StPluginsError"])
def test_every_error_is_ours_and_the_builtin_a_caller_expects(name):
    error = getattr(errors, name)
    assert issubclass(error, errors.StPluginsError)
    assert issubclass(error, (ValueError, RuntimeError, ImportError))
    drawn_base = re.search(rf"{name}\((\w+)\)", errors.__doc__)
    if drawn_base:
        assert drawn_base.group(1) in [base.__name__ for base in error.__mro__]


def test_a_missing_extra_says_what_to_type():
    error = errors.MissingExtraError("onnxruntime", "onnx")
    assert "pip install 'st-plugins[onnx]'" in str(error)
    assert (error.package, error.extra) == ("onnxruntime", "onnx")
