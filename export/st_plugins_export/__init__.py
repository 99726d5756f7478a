"""Exports a sentence-transformers model, whole, to ONNX, and runs the export without torch.

Names are loaded when they are first used: ``from st_plugins_export import OnnxEncoder`` imports neither torch nor
transformers nor sentence-transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from st_plugins_export.exporter import export_onnx
    from st_plugins_export.onnx_module import OnnxModule
    from st_plugins_export.parity import check_parity
    from st_plugins_export.report import ExportReport
    from st_plugins_export.runtime import OnnxEncoder

__all__ = ["ExportReport", "OnnxEncoder", "OnnxModule", "check_parity", "export_onnx"]

# A function never shares its name with a file of this package: importing the file would hide the function.
_HOME = {
    "ExportReport": "st_plugins_export.report",
    "OnnxEncoder": "st_plugins_export.runtime",
    "OnnxModule": "st_plugins_export.onnx_module",
    "check_parity": "st_plugins_export.parity",
    "export_onnx": "st_plugins_export.exporter",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
