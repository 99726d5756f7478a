"""Writes a SentenceTransformer as a folder that ONNX servers and :class:`OnnxEncoder` open."""

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from sentence_transformers import SentenceTransformer
from tqdm import tqdm

import st_plugins
from st_plugins.blocks import check_layer
from st_plugins.errors import ExportError, SizeError
from st_plugins.modules import ElasticTransformer
from st_plugins_export.extras import require
from st_plugins_export.graph import OPSET, plain_copy, write_graph
from st_plugins_export.layout import ExportedSize, Probe, graph_file, write_manifest
from st_plugins_export.opened import OpenedExport
from st_plugins_export.parity import PROBE_TEXTS, check_size
from st_plugins_export.report import ExportReport
from st_plugins_export.sidecars import library_versions, token_limit, write_sidecars
from st_plugins_export.staging import staged_folder
from st_plugins_export.support import check_exportable, includes_prompt


def export_onnx(
    model: SentenceTransformer,
    folder: str | Path,
    *,
    sizes: Iterable[tuple[int, int]] | None = None,
    tolerance: float = 1e-5,
    show_progress: bool = True,
) -> ExportReport:
    """Export a model, whole, to ONNX, and prove that it gives the same vectors.

    Transformer, pooling, dense layers, truncation and normalization become one graph per size: token ids in, sentence
    vectors out. Every graph is compared with torch before the folder appears; if one differs, or anything else
    fails, the target stays as it was. Weights stay float32.

    Args:
        model: Plain or elastic; left as it is.
        folder: Where to. May be missing, empty, or an earlier export, which is replaced.
        sizes: Sizes (layer, dim) of an elastic model to write besides the full one, each as a file of its own.
        tolerance: Largest absolute difference from torch, in any coordinate of any probe.
        show_progress: Show a bar over the steps.

    Returns:
        ExportReport: One row per size. ``print`` it.

    Raises:
        UnsupportedModelError: If the pipeline cannot be exported; the message names what stands in the way.
        SizeError: If a size does not exist.
        ParityError: If a graph and torch disagree.
        ExportError: If the target holds something else, the weights exceed 2 GiB, or ONNX cannot express the model.
        MissingExtraError: If onnx or onnxruntime is not installed.

    Example:
        >>> model = st_plugins.load("minilm-elastic")
        >>> report = export_onnx(model, "minilm-3x128-onnx", sizes=[(3, 128)])
        >>> [(size.layer, size.dim, size.file) for size in report.sizes]
        [(6, 384, 'onnx/model.onnx'), (3, 128, 'onnx/model_L3_D128.onnx')]
        >>> report.max_difference < 1e-6
        True
    """
    for package in ("onnx", "onnxruntime"):
        require(package, extra="onnx")
    check_exportable(model)
    wanted = _wanted_sizes(model, list(sizes or ()))
    target = Path(folder)
    steps = tqdm(total=2 * len(wanted), desc="Export", unit="step", disable=not show_progress)
    with staged_folder(target) as staged, steps:
        seconds = _write(model, staged, wanted, tolerance, steps)
        opened = OpenedExport(staged)
        reports = []
        for size in opened.manifest.sizes:
            report = check_size(model, opened, size, tolerance=tolerance)
            reports.append(replace(report, seconds=report.seconds + seconds[size.file]))
            steps.update()
    return ExportReport(target, tolerance, tuple(reports))


def _wanted_sizes(model: SentenceTransformer, sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs (layer, dim), the full one first, each once."""
    first = model[0]
    is_elastic = isinstance(first, ElasticTransformer)
    if sizes and not is_elastic:
        raise ExportError(
            f"Only elastic models have sizes other than the full one, got sizes={sizes} for a plain model. "
            "Wrap it first: export_onnx(st_plugins.elastic(model), ...)."
        )
    depth = first.depth if is_elastic else first.auto_model.config.num_hidden_layers
    width = model.get_embedding_dimension()
    for size in sizes:
        if not isinstance(size, (tuple, list)) or len(size) != 2:
            raise SizeError(f"sizes must be pairs (layer, dim), got {size!r}.")
        check_layer(size[0], depth)
        if not isinstance(size[1], int) or not 1 <= size[1] <= width:
            raise SizeError(f"dim must be an integer from 1 to {width} (the embedding dimension), got size {size}.")
    return list(dict.fromkeys([(depth, width), *((layer, dim) for layer, dim in sizes)]))


def _write(
    model: SentenceTransformer, folder: Path, wanted: list[tuple[int, int]], tolerance: float, steps: tqdm
) -> dict[str, float]:
    """Write all files; returns the seconds that each graph took, by its name."""
    (folder / "onnx").mkdir()
    full = plain_copy(model)
    expected = full.encode(list(PROBE_TEXTS), prompt="", show_progress_bar=False)  # (N, dim)
    sizes: list[ExportedSize] = []
    seconds: dict[str, float] = {}
    for layer, dim in wanted:
        started = time.perf_counter()
        is_full = (layer, dim) == wanted[0]
        name = graph_file(layer, dim, is_full=is_full)
        graph = write_graph(full if is_full else plain_copy(model, layer=layer, dim=dim), folder / name)
        identity = st_plugins.fingerprint(model) if is_full else st_plugins.fingerprint(model, layer=layer, dim=dim)
        sizes.append(ExportedSize(layer, dim, is_full, name, graph.nodes, identity, _trained_dims(model, layer, dim)))
        seconds[name] = time.perf_counter() - started
        steps.update()
    write_sidecars(full, folder)
    write_manifest(
        folder,
        sizes=tuple(sizes),
        inputs=graph.inputs,
        prompts=dict(model.prompts),
        default_prompt_name=model.default_prompt_name,
        include_prompt=includes_prompt(model),
        max_seq_length=token_limit(full.tokenizer),
        opset=OPSET,
        tolerance=tolerance,
        libraries={**library_versions(), "onnx": require("onnx", extra="onnx").__version__},
        probes=tuple(Probe(*pair) for pair in zip(PROBE_TEXTS, expected.tolist(), strict=True)),
    )
    return seconds


def _trained_dims(model: SentenceTransformer, layer: int, dim: int) -> tuple[int, ...]:
    """Dims below ``dim`` that an elastic model was trained for at this layer."""
    trained = getattr(model[0], "sizes", ())
    return tuple(sorted(width for trained_layer, width in trained if trained_layer == layer and width < dim))
