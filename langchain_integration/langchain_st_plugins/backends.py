"""Opens a model folder with torch or with ONNX Runtime."""

from importlib import import_module
from pathlib import Path
from typing import Any, Literal

Backend = Literal["auto", "torch", "onnx"]

# What st_plugins_export writes into every export.
_MANIFEST = "manifest.json"


def open_encoder(model: str, *, backend: Backend, device: str | None, threads: int | None) -> Any:
    """The encoder of a folder or hub id.

    Args:
        model: The folder or hub id.
        backend: "torch" loads through ``st_plugins.load``, "onnx" opens an export of ``st_plugins_export.export_onnx``,
            "auto" takes what the folder is.
        device: For torch: where the model is put.
        threads: How many one call may use. For torch that is a setting of the whole process.

    Returns:
        Any: A SentenceTransformer or an ``OnnxEncoder``.

    Raises:
        ValueError: If the backend does not fit the folder, or the device the backend.

    Example:
        >>> open_encoder("minilm-onnx", backend="auto", device=None, threads=1).sizes
        ((6, 384), (3, 128))
    """
    is_export = (Path(model) / _MANIFEST).is_file()
    if backend == "auto":
        backend = "onnx" if is_export else "torch"
    if backend == "onnx":
        if not is_export:
            raise ValueError(
                f'backend="onnx" needs a folder that st_plugins_export.export_onnx wrote, but {model!r} has no '
                f'{_MANIFEST}. Export the model first, or use backend="torch".'
            )
        if device is not None:
            raise ValueError(
                f'device is for backend="torch", got {device!r} for the export {model!r}. '
                "Pass encoder=OnnxEncoder(folder, providers=[...]) in its place."
            )
        # By name: the packages do not know each other, only this folder's format does.
        return import_module("st_plugins_export").OnnxEncoder(model, threads=threads)
    import st_plugins  # here, because its load imports torch

    if threads is not None:
        import_module("torch").set_num_threads(threads)
    return st_plugins.load(model, device=device)
