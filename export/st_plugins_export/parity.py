"""Compares an export with the model it came from: the same tokens, and the same vectors in the same batches."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer

from st_plugins_export.closeness import Closeness
from st_plugins_export.entries import ExportedSize
from st_plugins_export.exit_parity import check_exits
from st_plugins_export.first_output import check_repeated, check_tokens
from st_plugins_export.graph import in_float32, plain_copy
from st_plugins_export.opened import OpenedExport
from st_plugins_export.precisions import FULL, Precision, wanted_precisions
from st_plugins_export.probes import Probes, find_probes, token_batches
from st_plugins_export.report import ExitReport, ExportReport, SizeReport
from st_plugins_export.rounding import Unrounding, rounding_of
from st_plugins_export.routed import check_routes, has_routes
from st_plugins_export.speeds import relative_speeds


def check_parity(
    model: SentenceTransformer,
    folder: str | Path,
    texts: Sequence[str] | None = None,
    *,
    tolerance: float = 1e-5,
    min_cosine: Mapping[str, float] | None = None,
) -> ExportReport:
    """Compare every graph of an export with torch.

    The probes are texts from none to beyond the length limit, several scripts, and every prompt of the model; alone and
    in batches of 3 and 32, of which one has eight texts of full length (fewer tokens where that would take longer than
    with BERT-base). The report lists them. Tokens must be equal, vectors are compared coordinate by coordinate.

    Of a model that ends in :class:`~st_plugins.modules.ProductQuantization` or
    :class:`~st_plugins.modules.ResidualBinarization` a number within float noise of an edge may be rounded to either
    side. There, with x the embedding that torch rounds, the x' nearest to x is found that is rounded to what the graph
    gave, and x' is compared with x in place of the rounded vectors: in float32 no coordinate may be further from its
    edge than the tolerance. ``borderline`` of the report counts the probes that were rounded otherwise.

    Args:
        model: What was exported; left as it is, a copy runs on the CPU.
        folder: The export.
        texts: Compare these instead, in batches of 32 and without a prompt.
        tolerance: Largest absolute difference to accept in float32.
        min_cosine: By precision, what the mean cosine with torch must reach, where it is not the usual bar.

    Returns:
        ExportReport: The figures of each graph.

    Raises:
        ParityError: If a graph is not close enough, or tokens differ.
        InputError: If ``texts`` is no list of at least one text.
        ManifestError: If the folder is incomplete or was changed.

    Example:
        >>> model = st_plugins.load("minilm-elastic")
        >>> check_parity(model, "minilm-onnx").max_difference < 1e-6
        True
    """
    if has_routes(model):
        options: dict[str, Any] = {"texts": texts, "tolerance": tolerance, "min_cosine": min_cosine}
        return check_routes(model, Path(folder), partial(check_parity, **options))
    opened = OpenedExport(Path(folder))
    bars = wanted_precisions(opened.manifest.precisions, min_cosine)
    return check_opened(in_float32(model), opened, texts, bars=bars, tolerance=tolerance)


def check_opened(
    model: SentenceTransformer,
    opened: OpenedExport,
    texts: Sequence[str] | None = None,
    *,
    bars: Sequence[Precision],
    tolerance: float,
    after_each: Callable[[], Any] = lambda: None,
) -> ExportReport:
    """:func:`check_parity` for an opened export; ``after_each`` is called after each size and each exit."""
    probes = find_probes(model, opened, texts)
    options: dict[str, Any] = {
        "probes": probes,
        "bars": {precision.name: precision for precision in bars},
        "tolerance": tolerance,
    }
    sizes: list[SizeReport] = []
    for size in _grouped(opened.manifest.sizes, "layer", "dim"):
        sizes += check_sizes(model, opened, size, **options)
        after_each()
    exits: list[ExitReport] = []
    for exported in _grouped(opened.manifest.exits, "name"):
        exits += check_exits(model, opened, exported, **options)
        after_each()
    return ExportReport(opened.folder, tolerance, tuple(sizes), tuple(exits), probes.tried)


def check_sizes(
    model: SentenceTransformer,
    opened: OpenedExport,
    group: Sequence[ExportedSize],
    *,
    probes: Probes,
    bars: Mapping[str, Precision],
    tolerance: float,
) -> list[SizeReport]:
    """:func:`check_parity` for the graphs of one size, which need the vectors of torch only once.

    Args:
        model: What was exported.
        opened: The export.
        group: One of its sizes, in one precision or several.
        probes: What to compare.
        bars: How close each precision must be.
        tolerance: Largest absolute difference to accept in float32.

    Returns:
        list: One :class:`SizeReport` for each; ``seconds`` is the time of the check.

    Raises:
        ParityError: If a graph is not close enough, or tokens differ.
    """
    started = time.perf_counter()
    size = group[0]
    plain = plain_copy(model) if size.is_full else plain_copy(model, layer=size.layer, dim=size.dim)
    found = [Closeness(graph.file, bars[graph.precision], tolerance) for graph in group]
    unrounding = Unrounding(plain) if rounding_of(plain) is not None else None
    borderline = dict.fromkeys((graph.file for graph in group), 0)
    for batch, prompt, encodings in token_batches(plain, opened, probes):
        expected = (unrounding or plain).encode(batch, prompt=prompt, batch_size=len(batch), show_progress_bar=False)
        names, length = [prompt + text for text in batch], opened.prompt_length(prompt)
        for graph, closeness in zip(group, found, strict=True):
            vectors = opened.embed(encodings, graph, prompt_length=length)  # (B, dim)
            if unrounding is None:
                closeness.add(names, expected, vectors)
            else:
                before, explained, moved = unrounding.explain(expected, vectors)
                closeness.add(names, before, explained)
                borderline[graph.file] += moved
    for graph in group:
        if opened.manifest.layout == "portable":
            check_repeated(opened, graph)
        elif graph.precision == FULL:
            check_tokens(plain, opened, graph, tolerance=tolerance)
    speeds = relative_speeds(opened, group)
    seconds = (time.perf_counter() - started) / len(group)
    return [
        _report(opened, graph, closeness, speed=speed, seconds=seconds, borderline=borderline[graph.file])
        for graph, closeness, speed in zip(group, found, speeds, strict=True)
    ]


def _report(
    opened: OpenedExport,
    graph: ExportedSize,
    closeness: Closeness,
    *,
    speed: float | None,
    seconds: float,
    borderline: int,
) -> SizeReport:
    closeness.check()
    return SizeReport(
        graph.layer,
        graph.dim,
        graph.file,
        (opened.folder / graph.file).stat().st_size,
        graph.nodes,
        closeness.max_difference,
        seconds,
        graph.precision,
        closeness.cosine_mean,
        closeness.cosine_min,
        closeness.alone_difference,
        speed,
        padded_because=graph.padded_because,
        borderline=borderline,
    )


def _grouped(graphs: Sequence[Any], *names: str) -> list[list[Any]]:
    """Graphs that differ in nothing but their precision, together; float32 first, as in the manifest."""
    groups: dict[Any, list[Any]] = {}
    for graph in graphs:
        groups.setdefault(tuple(getattr(graph, name) for name in names), []).append(graph)
    return list(groups.values())
