"""Writes a float32 graph of an export once more, in another precision. Each has a file of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from st_plugins.errors import ExportError
from st_plugins.identity import with_precision
from st_plugins_export.block_int8 import to_block_int8
from st_plugins_export.entries import ExportedExit, ExportedSize
from st_plugins_export.external_data import MOST_BYTES, GraphWriter, too_large_to_lower
from st_plugins_export.extras import require
from st_plugins_export.fragments import count_nodes
from st_plugins_export.half_fallbacks import half_with_fallbacks
from st_plugins_export.layout import file_in
from st_plugins_export.precisions import Precision
from st_plugins_export.rounded_graphs import join, split_at_rounding
from st_plugins_export.smoothing import smoothed_int8

Exported = TypeVar("Exported", ExportedSize, ExportedExit)


@dataclass(frozen=True)
class Lowered:
    """A graph in another precision.

    Args:
        model: ``onnx.ModelProto``.
        fallbacks: Operators that should have been lowered, and would have spoiled the vectors.
    """

    model: Any
    fallbacks: tuple[str, ...] = ()


def lowered(model: Any, precision: Precision, batches: Sequence[Mapping[str, np.ndarray]]) -> Lowered:
    """A graph in another precision. A rounding at its end stays float32.

    Args:
        model: ``onnx.ModelProto`` in float32; left as it is.
        precision: Not float32.
        batches: Inputs to fit it to.
    """
    parts = split_at_rounding(model)
    if parts is not None:
        front = lowered(parts.front, precision, batches)
        return replace(front, model=join(front.model, parts))
    if precision.name == "int8":
        return Lowered(smoothed_int8(model, batches))
    if precision.name == "int8-blockwise":
        return Lowered(to_block_int8(model))
    return Lowered(*half_with_fallbacks(model, precision, batches))


def write_lowered(
    folder: Path,
    exported: Exported,
    precision: Precision,
    batches: Sequence[Mapping[str, np.ndarray]],
    writer: GraphWriter,
) -> tuple[Exported, int]:
    """Write a graph of an export in another precision, beside the one in float32.

    Args:
        folder: The export.
        exported: Its entry in float32.
        precision: Not float32.
        batches: Inputs to fit it to.
        writer: Saves the graphs of this export.

    Returns:
        tuple: Its entry, and the number of operators that stayed float32 although they should not.

    Raises:
        ExportError: If the float32 graph has 2 GiB or more.
    """
    onnx = require("onnx", extra="onnx")
    model = onnx.load(folder / exported.file)
    size = model.ByteSize()
    if size > MOST_BYTES:
        raise ExportError(too_large_to_lower(exported.file, size))
    inputs = [tensor.name for tensor in model.graph.input]  # a trace leaves out what the model does not read
    result = lowered(model, precision, [{name: batch[name] for name in inputs} for batch in batches])
    name = file_in(exported.file, precision.suffix)
    nodes = count_nodes(result.model.graph)
    writer.save(result.model, folder / name)
    identity = exported.fingerprint and with_precision(exported.fingerprint, precision.name)
    entry = replace(exported, file=name, nodes=nodes, fingerprint=identity, precision=precision.name)
    return entry, len(result.fallbacks)
