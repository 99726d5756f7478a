"""Finds out whether an optional package is installed, and says how to get it."""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from st_plugins.errors import MissingExtraError


def require(package: str, *, extra: str) -> ModuleType:
    """Import an optional package.

    A package that is installed but broken raises its own error: only absence is ours to explain.

    Args:
        package: Its import name.
        extra: The extra of ``st-plugins`` that brings it.

    Returns:
        ModuleType: The package.

    Raises:
        MissingExtraError: If it is not installed.

    Example:
        >>> onnxruntime = require("onnxruntime", extra="onnx")
        >>> "CPUExecutionProvider" in onnxruntime.get_available_providers()
        True
    """
    if find_spec(package) is None:
        raise MissingExtraError(package, extra)
    return import_module(package)
