"""pyarrow, or the error that says how to get it."""

from importlib import import_module
from typing import Any

from st_plugins.errors import MissingExtraError


def parquet() -> Any:
    """The module ``pyarrow.parquet``.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        return import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError("pyarrow", "bulk") from error


def arrow() -> Any:
    """The module ``pyarrow``; errors as in :func:`parquet`."""
    parquet()
    return import_module("pyarrow")
