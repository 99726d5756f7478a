"""Writes a SentenceTransformer as a folder that ONNX servers and :class:`OnnxEncoder` open."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Router
from tqdm import tqdm

import st_plugins
from st_plugins_export.entries import ExportedExit, ExportedSize, Probe
from st_plugins_export.exit_graph import write_exit_graph
from st_plugins_export.exit_parity import check_exit
from st_plugins_export.external_data import GraphWriter, announce_external_data, check_external_data
from st_plugins_export.extras import require
from st_plugins_export.first_output import check_layout
from st_plugins_export.graph import OPSET, in_float32, plain_copy, with_alignment_of, write_graph
from st_plugins_export.layout import exit_file, graph_file, write_manifest
from st_plugins_export.opened import OpenedExport
from st_plugins_export.parity import check_size
from st_plugins_export.probes import probe_texts
from st_plugins_export.report import ExportReport
from st_plugins_export.routed import export_routes
from st_plugins_export.serving import describe, write_serving
from st_plugins_export.sidecars import library_versions, token_limit, write_sidecars
from st_plugins_export.staging import staged_folder
from st_plugins_export.support import check_exportable, includes_prompt
from st_plugins_export.wanted import WantedExit, trained_dims, wanted_exits, wanted_sizes


def export_onnx(
    model: SentenceTransformer,
    folder: str | Path,
    *,
    sizes: Iterable[tuple[int, int]] | None = None,
    exits: Iterable[str] = (),
    layer_per_text: bool = False,
    layout: str = "portable",
    external_data: bool | str = "auto",
    tolerance: float = 1e-5,
    show_progress: bool = True,
) -> ExportReport:
    """Export a model, whole, to ONNX, and prove that it gives the same vectors.

    Transformer, pooling, dense layers, truncation and normalization become one graph per size: token ids in, sentence
    vectors out. Every graph is compared with torch before the folder appears; if one differs, or anything else
    fails, the target stays as it was. The graph computes in float32; a model in half precision is exported as
    ``model.float()`` would be, fingerprint included. Of a Router each route becomes an export of its own, in a folder
    of the route's name.

    Args:
        model: Plain or elastic; left as it is.
        folder: Where to. May be missing, empty, or an earlier export, which is replaced.
        sizes: Sizes (layer, dim) of an elastic model to write besides the full one, each as a file of its own.
        exits: Names of exit policies of an elastic model, each to become a file ``onnx/model_exit_<name>.onnx``, in
            which every text leaves at the layer the policy says. It has a third output, ``exit_layer``.
        layer_per_text: Write ``onnx/model_layer_per_text.onnx`` too, which takes one more input, ``layer``: where each
            text shall leave, of the layers an elastic model was trained for.
        layout: What the first output of every graph, ``last_hidden_state`` (B, T, D), holds; the second one,
            ``sentence_embedding`` (B, D), is the same either way. ``"portable"``: the sentence embedding, repeated
            at each token, so that a consumer which pools tokens by itself, by mean, CLS or last token and whatever the
            model does, gets the vectors of the model. ``"tokens"``: what the transformer gave for each token; a
            consumer then has to know the pooling, dense layers and all else that follow.
        external_data: Where the weights go. True: into one file, ``onnx/model.onnx_data``, which all graphs share, so
            that sizes and exits add almost nothing to the folder. False: into each graph, which servers that take one
            file need. ``"auto"``: into each graph, unless that exceeds the 2 GiB that one holds.
        tolerance: Largest absolute difference from torch, in any coordinate of any probe.
        show_progress: Show a bar over the steps.

    Returns:
        ExportReport: One row per graph. ``print`` it.

    Raises:
        UnsupportedModelError: If the pipeline cannot be exported; the message names what stands in the way.
        SizeError: If a size does not exist.
        ValueError: If there is no such layout, or no such choice of ``external_data``.
        ExitError: If an exit policy does not exist, or was calibrated for other weights.
        UntrainedSizeError: If the model was not trained for a layer to leave at.
        ParityError: If a graph and torch disagree.
        ExportError: If the target holds something else or cannot be written, ONNX cannot express the model, or its
            weights exceed 2 GiB and shall not lie beside the graph.
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
    check_layout(layout)
    check_external_data(external_data)
    if isinstance(model[0], Router):
        export = partial(
            export_onnx,
            sizes=sizes,
            exits=exits,
            layer_per_text=layer_per_text,
            layout=layout,
            external_data=external_data,
            tolerance=tolerance,
            show_progress=show_progress,
        )
        return export_routes(model, Path(folder), export)
    check_exportable(model, external_data=external_data)
    model = in_float32(model)
    wanted = wanted_sizes(model, list(sizes or ()))
    leaving = wanted_exits(model, exits, layer_per_text=layer_per_text)
    target = Path(folder)
    steps = tqdm(total=2 * len(wanted) + 2 * len(leaving), desc="Export", unit="step", disable=not show_progress)
    with staged_folder(target) as staged, steps:
        writer = GraphWriter(staged, external_data=external_data)
        seconds = _write(model, staged, wanted, leaving, layout, tolerance, writer, steps)
        opened = OpenedExport(staged)
        size_reports = []
        for size in opened.manifest.sizes:
            report = check_size(model, opened, size, tolerance=tolerance)
            size_reports.append(replace(report, seconds=report.seconds + seconds[size.file]))
            steps.update()
        exit_reports = []
        for exported in opened.manifest.exits:
            exit_report = check_exit(model, opened, exported, tolerance=tolerance)
            exit_reports.append(replace(exit_report, seconds=exit_report.seconds + seconds[exported.file]))
            steps.update()
    return ExportReport(target, tolerance, tuple(size_reports), tuple(exit_reports))


def _write(
    model: SentenceTransformer,
    folder: Path,
    wanted: list[tuple[int, int]],
    leaving: list[WantedExit],
    layout: str,
    tolerance: float,
    writer: GraphWriter,
    steps: tqdm,
) -> dict[str, float]:
    """Write all files; returns the seconds that each graph took, by its name."""
    (folder / "onnx").mkdir()
    full = plain_copy(model)
    texts = probe_texts(full)
    expected = full.encode(texts, prompt="", show_progress_bar=False)  # (N, dim)
    sizes: list[ExportedSize] = []
    seconds: dict[str, float] = {}
    for layer, dim in wanted:
        started = time.perf_counter()
        is_full = (layer, dim) == wanted[0]
        name = graph_file(layer, dim, is_full=is_full)
        plain = full if is_full else plain_copy(model, layer=layer, dim=dim)
        graph = write_graph(plain, folder / name, layout, writer)
        identity = st_plugins.fingerprint(model) if is_full else st_plugins.fingerprint(model, layer=layer, dim=dim)
        dims = trained_dims(model, [layer], dim)
        sizes.append(ExportedSize(layer, dim, is_full, name, graph.nodes, identity, dims))
        seconds[name] = time.perf_counter() - started
        steps.update()
    exits = _write_exits(model, full, folder, leaving, layout, writer, seconds, steps)
    write_sidecars(full, folder, layout)
    if writer.beside:
        announce_external_data(folder)
    limit = token_limit(full.tokenizer)
    description = describe(full, layout, inputs=graph.inputs, max_seq_length=limit, fingerprint=sizes[0].fingerprint)
    write_serving(folder, description)
    write_manifest(
        folder,
        sizes=tuple(sizes),
        inputs=graph.inputs,
        prompts=dict(model.prompts),
        default_prompt_name=model.default_prompt_name,
        include_prompt=includes_prompt(model),
        max_seq_length=limit,
        opset=OPSET,
        tolerance=tolerance,
        libraries={**library_versions(), "onnx": require("onnx", extra="onnx").__version__},
        exits=exits,
        layout=layout,
        external_data=writer.beside,
        probes=tuple(Probe(*pair) for pair in zip(texts, expected.tolist(), strict=True)),
    )
    return seconds


def _write_exits(
    model: SentenceTransformer,
    full: SentenceTransformer,
    folder: Path,
    leaving: Sequence[WantedExit],
    layout: str,
    writer: GraphWriter,
    seconds: dict[str, float],
    steps: tqdm,
) -> tuple[ExportedExit, ...]:
    exits = []
    dim = full.get_embedding_dimension()
    full = with_alignment_of(model, full)
    for wanted in leaving:
        started = time.perf_counter()
        name = exit_file(wanted.name)
        graph = write_exit_graph(full, folder / name, wanted.layers, wanted.policy, layout, writer)
        identity = policy = None
        if wanted.policy is not None:
            identity = st_plugins.fingerprint(model, exit=wanted.policy.name)
            policy = wanted.policy.as_dict()
        dims = trained_dims(model, wanted.layers, dim)
        exits.append(ExportedExit(wanted.name, wanted.layers, dim, name, graph.nodes, identity, dims, policy))
        seconds[name] = time.perf_counter() - started
        steps.update()
    return tuple(exits)
