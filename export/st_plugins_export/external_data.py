"""Writes graphs, with their weights inside or in one file beside them that all graphs of an export share.

A protobuf file holds less than 2 GiB, so the weights of a larger model must lie beside its graph. Graphs of several
sizes hold the same tensors: beside them, each is written once.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from st_plugins.errors import ExportError
from st_plugins_export.extras import require

# The rest of the 2 GiB is room for the graph itself.
MOST_BYTES = 2**31 - 2**24
# What ONNX Runtime takes of one tensor whose content it is given, and does not read by itself.
MOST_BYTES_OF_A_TENSOR = 2**31
# Where onnxruntime-web looks for the weights of onnx/model.onnx.
DATA_FILE = "onnx/model.onnx_data"
# What is smaller stays in the graph: shapes and constants, which onnx reads to understand it.
_LEAST_BYTES = 1024
# Whole pages, so that runtimes can map a tensor into memory.
_ALIGNMENT = 4096


class GraphWriter:
    """Saves the graphs of one export.

    Args:
        folder: The export.
        external_data: True puts weights into ``onnx/model.onnx_data``; False keeps each file whole. ``"auto"`` keeps
            them whole until one is too large for that.

    Example:
        >>> GraphWriter(Path("out"), external_data=True).beside
        {}
    """

    def __init__(self, folder: Path, *, external_data: bool | str = "auto") -> None:
        self._folder = folder
        self._external_data = external_data
        self._places: dict[bytes, tuple[int, int]] = {}  # offset and length, by the tensor's SHA-256
        self.beside: dict[str, str] = {}  # the file with its weights, by the name of the graph

    def save(self, graph: Any, file: Path) -> None:
        """Check a graph and write it.

        Args:
            graph: ``onnx.ModelProto``; loses its weights if they go beside it.
            file: Inside the folder.

        Raises:
            ExportError: If it must be whole and is too large for that, or one tensor is larger than ONNX Runtime takes.
        """
        onnx = require("onnx", extra="onnx")
        if not self._goes_beside(graph):
            onnx.checker.check_model(graph)
            onnx.save(graph, file)
            return
        _to_outer_graph(graph.graph)
        with (self._folder / DATA_FILE).open("ab") as data:
            for tensor in graph.graph.initializer:
                if len(tensor.raw_data) >= _LEAST_BYTES:
                    self._move(tensor, data)
        onnx.save(graph, file)
        onnx.checker.check_model(str(file))
        self.beside[file.relative_to(self._folder).as_posix()] = DATA_FILE

    def _goes_beside(self, graph: Any) -> bool:
        if self._external_data is not False and (self._external_data is True or self.beside):
            return True
        size = sum(len(tensor.raw_data) for inner in _graphs(graph.graph) for tensor in inner.initializer)
        if size > MOST_BYTES and self._external_data is False:
            raise ExportError(too_large(size))
        return size > MOST_BYTES

    def _move(self, tensor: Any, data: Any) -> None:
        content = tensor.raw_data
        check_tensor(tensor.name, tensor.dims, len(content))
        digest = hashlib.sha256(content).digest()
        if digest not in self._places:
            data.write(bytes(-data.tell() % _ALIGNMENT))
            self._places[digest] = (data.tell(), len(content))
            data.write(content)
        offset, length = self._places[digest]
        tensor.ClearField("raw_data")
        tensor.data_location = require("onnx", extra="onnx").TensorProto.EXTERNAL
        for key, value in (("location", Path(DATA_FILE).name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))


def check_external_data(choice: bool | str) -> None:
    """Raise ValueError unless it is True, False or ``"auto"``."""
    if choice not in (True, False, "auto") or not isinstance(choice, (bool, str)):
        raise ValueError(f"external_data must be True, False or 'auto', got {choice!r}.")


def check_tensor(name: str, shape: Sequence[int], size: int) -> None:
    """Refuse a tensor of so many bytes if ONNX Runtime would not take it.

    Raises:
        ExportError: With its name.
    """
    if size > MOST_BYTES_OF_A_TENSOR:
        raise ExportError(
            f"One tensor may have 2 GiB, and {name} {list(shape)} has {size / 2**30:.1f} GiB in float32. "
            "Export a model with a smaller vocabulary, or run this one with sentence-transformers."
        )


def too_large(size: int) -> str:
    """What to say about weights of this many bytes that shall be in one file with their graph."""
    return (
        f"One ONNX file holds less than 2 GiB of weights, the model has {size / 2**30:.1f} GiB. Let them lie beside "
        "the graph, export_onnx(model, folder, external_data='auto'), or export a smaller model: st_plugins.bake(...)."
    )


def too_large_to_lower(what: str, size: int) -> str:
    """What to say about weights of this many bytes that shall be written in other precisions."""
    return (
        f"Other precisions are made from a float32 graph of less than 2 GiB, {what} has {size / 2**30:.1f} GiB. "
        "Leave precisions out, or export a smaller model: st_plugins.bake(...)."
    )


def announce_external_data(folder: Path) -> None:
    """Tell onnxruntime-web, through ``config.json``, that ``onnx/model.onnx`` comes with a file of weights."""
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["transformers.js_config"] = {"use_external_data_format": {"model.onnx": True}}
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and all graphs inside its operators."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _to_outer_graph(graph: Any) -> None:
    """Move the large weights of inner graphs out: only those of the outer one may come from memory that was checked."""
    for inner in list(_graphs(graph))[1:]:
        weights = list(inner.initializer)
        graph.initializer.extend(tensor for tensor in weights if len(tensor.raw_data) >= _LEAST_BYTES)
        del inner.initializer[:]
        inner.initializer.extend(tensor for tensor in weights if len(tensor.raw_data) < _LEAST_BYTES)
