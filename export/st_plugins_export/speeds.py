"""How fast the precisions of one graph run beside float32, in a short measurement on the CPU of this machine."""

import statistics
import time
from collections.abc import Sequence

import numpy as np

from st_plugins_export.entries import ExportedExit, ExportedSize
from st_plugins_export.opened import OpenedExport

_TEXT = "A sentence of ordinary length, as people write them to each other when they talk about the weather at noon."
_ROWS = 8
_MOST_ROUNDS = 15
_SECONDS = 1.0


def relative_speeds(opened: OpenedExport, group: Sequence[ExportedSize | ExportedExit]) -> list[float | None]:
    """How many times as fast as the first graph each one runs a batch of eight sentences.

    The graphs take turns, for a second or fifteen rounds; medians are compared. That tells a factor of two from none,
    not more: a machine with other work to do gives other figures every time.

    Args:
        opened: The export.
        group: Graphs that differ in precision, float32 first.

    Returns:
        list: The first is 1.0. All None if there is nothing to compare.
    """
    if len(group) < 2:
        return [None] * len(group)
    text = _TEXT if len(opened.tokenizer.encode(_TEXT)) else opened.manifest.probes[0].text  # which has tokens
    encodings = opened.tokenize([text] * _ROWS)
    seconds: list[list[float]] = [[] for _ in group]
    begun = time.perf_counter()
    for round_ in range(_MOST_ROUNDS + 1):
        for graph, values in zip(group, seconds, strict=True):
            started = time.perf_counter()
            _run(opened, encodings, graph)
            values.append(time.perf_counter() - started)
        if round_ and time.perf_counter() - begun > _SECONDS:
            break
    medians = [statistics.median(values[1:]) for values in seconds]  # the first one warms up
    return [medians[0] / median for median in medians]


def _run(opened: OpenedExport, encodings: Sequence[object], graph: ExportedSize | ExportedExit) -> None:
    if isinstance(graph, ExportedSize):
        opened.embed(encodings, graph)
    else:
        layers = None if graph.name is not None else np.resize(graph.layers, len(encodings))
        opened.embed_with_exits(encodings, graph, layers)
