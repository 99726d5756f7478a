"""Opens a model folder with torch or with ONNX Runtime. Importing this file imports neither."""

from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

from st_plugins.errors import PrecisionError, UnsupportedModelError

Backend = Literal["auto", "torch", "onnx"]

# What st_plugins_export writes into every export.
_MANIFEST = "manifest.json"


def open_encoder(
    model: str,
    *,
    backend: Backend = "auto",
    device: str | None = None,
    threads: int | None = None,
    precision: str = "fp32",
) -> Any:
    """The encoder of a folder or hub id.

    Args:
        model: The folder or hub id.
        backend: "torch" loads through ``st_plugins.load``, "onnx" opens an export of ``st_plugins_export.export_onnx``,
            "auto" takes what the folder is.
        device: Where to run, like "cpu" or "cuda"; None leaves it to the backend.
        threads: How many one call may use. For torch that is a setting of the whole process.
        precision: Of an export: one it has. Torch knows "fp32" only, which is the model as it was saved.

    Returns:
        Any: A SentenceTransformer or an ``OnnxEncoder``.

    Raises:
        UnsupportedModelError: If there is no such backend, or ONNX is asked of a folder that is no export.
        PrecisionError: If torch is asked for a precision, or the export does not have it.

    Example:
        >>> open_encoder("minilm-onnx").sizes
        ((6, 384), (3, 128))
    """
    if backend_of(model, backend) == "onnx":
        if not _is_export(model):
            raise UnsupportedModelError(
                f'backend="onnx" needs a folder that st_plugins_export.export_onnx wrote, but {model!r} has no '
                f'{_MANIFEST}. Export the model first, or use backend="torch".'
            )
        # By name: this package does not know the exporter, only its folder's format.
        encoder = import_module("st_plugins_export").OnnxEncoder
        return encoder(model, precision=precision, providers=device, threads=threads)
    if precision != "fp32":
        raise PrecisionError(
            f'precision is for backend="onnx", got {precision!r} for {model!r}. Export the model in it.'
        )
    import st_plugins  # here, because its load imports torch

    if threads is not None:
        import_module("torch").set_num_threads(threads)
    return st_plugins.load(model, device=device)


def backend_of(model: str, backend: Backend) -> Backend:
    """What "auto" means for a folder or hub id; "torch" and "onnx" mean themselves.

    Raises:
        UnsupportedModelError: If there is no such backend.

    Example:
        >>> backend_of("minilm-onnx", "auto"), backend_of("minilm-elastic", "auto")
        ('onnx', 'torch')
    """
    if backend not in get_args(Backend):
        raise UnsupportedModelError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}.")
    if backend != "auto":
        return backend
    return "onnx" if _is_export(model) else "torch"


def _is_export(model: str) -> bool:
    return (Path(model) / _MANIFEST).is_file()
