"""Compares a graph with exits with the model it came from: text by text the same layer, and the same vector."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

from st_plugins.errors import ParityError
from st_plugins.exits import encode_with_exits
from st_plugins.exits.traces import Trace, trace
from st_plugins_export.closeness import Closeness
from st_plugins_export.entries import ExportedExit
from st_plugins_export.first_output import check_repeated
from st_plugins_export.graph import elastic_copy
from st_plugins_export.opened import OpenedExport
from st_plugins_export.precisions import Precision
from st_plugins_export.probes import Probes, token_batches
from st_plugins_export.report import ExitReport
from st_plugins_export.speeds import relative_speeds


def check_exits(
    model: SentenceTransformer,
    opened: OpenedExport,
    group: Sequence[ExportedExit],
    *,
    probes: Probes,
    bars: Mapping[str, Precision],
    tolerance: float,
) -> list[ExitReport]:
    """:func:`~st_plugins_export.check_parity` for the graphs of one exit policy, which need torch only once.

    A text must leave where it leaves in torch. Only if its score is within 1e-5 of the threshold at the earlier one of
    two layers may these differ, in a lower precision further; it is counted then, and compared with the layer it did
    leave at. Without a policy the texts of a batch are sent to all layers in turn.

    Args:
        model: What was exported.
        opened: The export.
        group: One of its exits, in one precision or several.
        probes: What to compare.
        bars: How close each precision must be.
        tolerance: Largest absolute difference to accept in float32.

    Returns:
        list: One :class:`ExitReport` for each; ``seconds`` is the time of the check.

    Raises:
        ParityError: If a graph is not close enough, a text leaves elsewhere, or tokens differ.
        ExitError: If the model does not have the policy.
    """
    started = time.perf_counter()
    elastic = elastic_copy(model)
    _check_policy(elastic, group[0])
    checks = [_ExitCheck(elastic, opened, graph, bars[graph.precision], tolerance) for graph in group]
    for batch, prompt, encodings in token_batches(elastic, opened, probes):
        expected, layers = _run_torch(elastic, batch, prompt, group[0])
        for check in checks:
            check.add(batch, prompt, encodings, expected, layers)
    if opened.manifest.layout == "portable":
        for graph in group:
            check_repeated(opened, graph)
    speeds = relative_speeds(opened, group)
    seconds = (time.perf_counter() - started) / len(group)
    return [check.report(seconds, speed) for check, speed in zip(checks, speeds, strict=True)]


class _ExitCheck:
    """Compares one graph with what torch gave."""

    def __init__(
        self,
        elastic: SentenceTransformer,
        opened: OpenedExport,
        exported: ExportedExit,
        precision: Precision,
        tolerance: float,
    ) -> None:
        self._elastic, self._opened, self._exported, self._precision = elastic, opened, exported, precision
        self._closeness = Closeness(exported.file, precision, tolerance)
        self._borderline = 0

    def add(
        self, batch: list[str], prompt: str, encodings: list[Any], expected: np.ndarray, layers: np.ndarray
    ) -> None:
        told = layers if self._exported.name is None else None
        length = self._opened.prompt_length(prompt)
        found, left = self._opened.embed_with_exits(
            encodings, self._exported, told, prompt_length=length
        )  # (B, dim), (B,)
        moved = np.flatnonzero(left != layers)
        if len(moved):
            expected = expected.copy()
        for row in moved:
            self._check_borderline(batch[row], prompt, int(left[row]), int(layers[row]))
            expected[row] = _at_layer(self._elastic, [batch[row]], prompt, int(left[row]))[0]
        self._borderline += len(moved)
        # Alone or in a batch, a text may leave elsewhere where rounding decides; that is no other vector of one layer.
        names = [f"{prompt}{text}" for text in batch]
        self._closeness.add(names, expected, found, places=left.tolist())

    def _check_borderline(self, text: str, prompt: str, found: int, expected: int) -> None:
        """Only rounding may send a text elsewhere."""
        if self._exported.name is not None:
            policy = self._elastic[0].exit_policy(self._exported.name)
            traced = trace(self._elastic, [text], prompt=prompt)
            exits = [traced.layers.index(layer) for layer in self._exported.layers]
            at_exits = Trace(self._exported.layers, traced.pooled[exits], traced.lengths, traced.embeddings[exits])
            position = self._exported.layers.index(min(found, expected))
            if (
                abs(float(at_exits.scores(policy.criterion)[position, 0]) - policy.threshold)
                <= self._precision.max_score_difference
            ):
                return
        raise ParityError(
            f"In {self._exported.file} a text must leave at the layer it leaves at in torch, {expected}, and "
            f"leaves at {found}: {(prompt + text)[:60]!r}. Report this architecture, or export fixed sizes instead."
        )

    def report(self, seconds: float, speed: float | None) -> ExitReport:
        self._closeness.check()
        graph = self._exported
        size = (self._opened.folder / graph.file).stat().st_size
        difference = self._closeness.max_difference
        report = ExitReport(graph.name, graph.layers, graph.dim, graph.file, size, graph.nodes, difference, seconds)
        return replace(
            report,
            borderline=self._borderline,
            precision=graph.precision,
            speed=speed,
            cosine_mean=self._closeness.cosine_mean,
            cosine_min=self._closeness.cosine_min,
            alone_difference=self._closeness.alone_difference,
            padded_because=graph.padded_because,
        )


def _check_policy(elastic: SentenceTransformer, exported: ExportedExit) -> None:
    if exported.name is not None and elastic[0].exit_policy(exported.name).as_dict() != exported.policy:
        raise ParityError(
            f"The policy {exported.name!r} of the model must be the one in {exported.file}, and is another. "
            "Export the model again."
        )


def _run_torch(
    elastic: SentenceTransformer, texts: list[str], prompt: str, exported: ExportedExit
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (B, dim) and layers (B,)."""
    if exported.name is not None:
        options = {"batch_size": len(texts), "show_progress_bar": False}
        return encode_with_exits(elastic, texts, exit=exported.name, prompt=prompt, **options)
    asked = np.resize(exported.layers, len(texts))
    embeddings = np.empty((len(texts), exported.dim), dtype=np.float32)
    for layer in exported.layers:
        rows = asked == layer
        if rows.any():
            chosen = [text for text, is_chosen in zip(texts, rows, strict=True) if is_chosen]
            embeddings[rows] = _at_layer(elastic, chosen, prompt, layer)
    return embeddings, asked


def _at_layer(elastic: SentenceTransformer, texts: list[str], prompt: str, layer: int) -> np.ndarray:
    return elastic.encode(texts, layer=layer, prompt=prompt, batch_size=len(texts), show_progress_bar=False)
