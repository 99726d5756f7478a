"""Compares a graph with exits with the model it came from: text by text the same layer, and the same vector."""

import time
from collections.abc import Sequence

import numpy as np
from sentence_transformers import SentenceTransformer

from st_plugins.errors import ParityError
from st_plugins.exits import encode_with_exits
from st_plugins.exits.traces import Trace, trace
from st_plugins_export.entries import ExportedExit
from st_plugins_export.first_output import check_repeated
from st_plugins_export.graph import elastic_copy
from st_plugins_export.opened import OpenedExport
from st_plugins_export.probes import token_batches
from st_plugins_export.report import ExitReport

# Rounding may carry a score this far, and so over the threshold.
_SCORE_TOLERANCE = 1e-5


def check_exit(
    model: SentenceTransformer,
    opened: OpenedExport,
    exported: ExportedExit,
    texts: Sequence[str] | None = None,
    *,
    tolerance: float,
) -> ExitReport:
    """:func:`~st_plugins_export.check_parity` for one graph with exits.

    A text must leave where it leaves in torch. Only if its score is within 1e-5 of the threshold at the earlier one of
    two layers may these differ; it is counted then, and compared with the layer it did leave at. Without a policy the
    texts of a batch are sent to all layers in turn.

    Args:
        model: What was exported.
        opened: The export.
        exported: One of its exits.
        texts: Compare these instead of the probes.
        tolerance: Largest absolute difference to accept.

    Returns:
        ExitReport: ``seconds`` is the time of the check.

    Raises:
        ParityError: If a difference is larger, a text leaves elsewhere, or tokens differ.
        ExitError: If the model does not have the policy.
    """
    started = time.perf_counter()
    elastic = elastic_copy(model)
    _check_policy(elastic, exported)
    worst, borderline = 0.0, 0
    for batch, prompt, encodings in token_batches(elastic, opened, texts):
        expected, layers = _run_torch(elastic, batch, prompt, exported)
        told = layers if exported.name is None else None
        found, left = opened.embed_with_exits(encodings, exported, told)  # (B, dim), (B,)
        moved = np.flatnonzero(left != layers)
        for row in moved:
            _check_borderline(elastic, batch[row], prompt, exported, int(left[row]), int(layers[row]))
            expected[row] = _at_layer(elastic, [batch[row]], prompt, int(left[row]))[0]
        borderline += len(moved)
        difference = float(np.abs(expected - found).max())
        if not difference <= tolerance:  # NaN fails as well
            raise ParityError(
                f"{exported.file} must give the vectors of torch to within {tolerance:.0e}, and is {difference:.1e} "
                f"off in a batch of {len(batch)} that starts with {(prompt + batch[0])[:60]!r}. Report this "
                "architecture, or export fixed sizes instead."
            )
        worst = max(worst, difference)
    if opened.manifest.layout == "portable":
        check_repeated(opened, exported)
    size = (opened.folder / exported.file).stat().st_size
    seconds = time.perf_counter() - started
    return ExitReport(
        exported.name, exported.layers, exported.dim, exported.file, size, exported.nodes, worst, seconds, borderline
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


def _check_borderline(
    elastic: SentenceTransformer, text: str, prompt: str, exported: ExportedExit, found: int, expected: int
) -> None:
    if exported.name is not None:
        policy = elastic[0].exit_policy(exported.name)
        traced = trace(elastic, [text], prompt=prompt)
        exits = [traced.layers.index(layer) for layer in exported.layers]
        at_exits = Trace(exported.layers, traced.pooled[exits], traced.lengths, traced.embeddings[exits])
        position = exported.layers.index(min(found, expected))
        if abs(float(at_exits.scores(policy.criterion)[position, 0]) - policy.threshold) <= _SCORE_TOLERANCE:
            return
    raise ParityError(
        f"In {exported.file} a text must leave at the layer it leaves at in torch, {expected}, and leaves at {found}: "
        f"{(prompt + text)[:60]!r}. Report this architecture, or export fixed sizes instead."
    )
