"""Writes a SentenceTransformer as a folder that ONNX servers and :class:`OnnxEncoder` open."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from sentence_transformers import SentenceTransformer
from tqdm import tqdm

from st_plugins.errors import ExportError
from st_plugins_export.calibration import CALIBRATION_TEXTS, checked_texts
from st_plugins_export.export_files import Cost, ExportFiles
from st_plugins_export.external_data import GraphWriter, check_external_data
from st_plugins_export.extras import require
from st_plugins_export.first_output import check_layout
from st_plugins_export.graph import OPSET, OPSETS, in_float32
from st_plugins_export.layout import REPORT_FILE, add_file, exit_file, file_in, graph_file
from st_plugins_export.opened import OpenedExport
from st_plugins_export.parity import check_opened
from st_plugins_export.precisions import FULL, Precision, wanted_precisions
from st_plugins_export.report import ExitReport, ExportReport, SizeReport
from st_plugins_export.routed import export_routes, has_routes
from st_plugins_export.safe_packing import check_packed
from st_plugins_export.staging import staged_folder
from st_plugins_export.support import check_exportable
from st_plugins_export.wanted import WantedExit, wanted_exits, wanted_sizes

Reported = TypeVar("Reported", SizeReport, ExitReport)


def export_onnx(
    model: SentenceTransformer,
    folder: str | Path,
    *,
    sizes: Iterable[tuple[int, int]] | None = None,
    exits: Iterable[str] = (),
    layer_per_text: bool = False,
    layout: str = "portable",
    packed: bool | str = "auto",
    external_data: bool | str = "auto",
    precisions: Iterable[str] = (FULL,),
    min_cosine: Mapping[str, float] | None = None,
    calibration_texts: Iterable[str] = CALIBRATION_TEXTS,
    opset: int = OPSET,
    tolerance: float = 1e-5,
    show_progress: bool = True,
) -> ExportReport:
    """Export a model, whole, to ONNX, and prove that it gives the same vectors.

    Transformer, pooling, dense layers, truncation and normalization become one graph per size: token ids in, sentence
    vectors out. Every graph is compared with torch before the folder appears; if one differs, or anything else
    fails, the target stays as it was. Graphs compute in float32, and in other ``precisions`` besides; a model in half
    precision is exported as ``model.float()`` would be, fingerprint included. Of a Router each route becomes an export
    of its own, in a folder of the route's name; and so do queries and documents where only documents are rounded.

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
        packed: Whether graphs compute real tokens only, though batches are padded: much faster where servers do not
            sort, the same vectors. ``"auto"``: each graph that keeps its values so, which a trial shows; the report
            says why another one stayed padded (``padded_because``). True: every graph, or no export. False: none, as
            tools that look for the attention of padded graphs need it.
        external_data: Where the weights go. True: into one file, ``onnx/model.onnx_data``, which all graphs share, so
            that sizes and exits add almost nothing to the folder. False: into each graph, which servers that take one
            file need. ``"auto"``: into each graph, unless that exceeds the 2 GiB that one holds.
        precisions: Write every graph in these precisions too. ``"fp32"`` is always written: it is what the others are
            made from. ``"fp16"``: float16 inside, half the bytes, for GPUs; operators that it spoils stay float32.
            ``"int8"``: products and tables in int8 with a scale for each token, a quarter of the bytes, for CPUs.
            ``"int8-blockwise"``: weights and tables in int8 with a scale for each 32 numbers, nearer to float32.
        min_cosine: By precision, what the cosine with torch must reach on average over all probes, where that is not
            the usual bar (``"fp16"`` 0.9999, ``"int8"`` 0.998, ``"int8-blockwise"`` 0.9995); no probe may be ten times
            as far from 1.
        calibration_texts: What ``"fp16"`` and ``"int8"`` are fitted to: texts like those you will embed, no labels.
            The default is 32 general ones, in English. Check the result with other texts: :func:`check_parity`.
        opset: Of the graphs: 17, 18, 19 or 20.
        tolerance: Largest absolute difference from torch, in any coordinate of any probe, in float32.
        show_progress: Show a bar over the steps.

    Returns:
        ExportReport: One row per graph. ``print`` it.

    Raises:
        UnsupportedModelError: If the pipeline cannot be exported; the message names what stands in the way.
        SizeError: If a size does not exist.
        ValueError: If there is no such layout, or no such choice of ``packed`` or ``external_data``.
        ExitError: If an exit policy does not exist, or was calibrated for other weights.
        UntrainedSizeError: If the model was not trained for a layer to leave at.
        PrecisionError: If a precision does not exist.
        InputError: If there are no calibration texts, or they are no texts.
        ParityError: If a graph and torch disagree more than its precision allows, or if what shares a batch with a text
            changes its vector.
        ExportError: If the target holds something else or cannot be written, ONNX cannot express the model, a graph
            that must be packed reads padding, weights exceed 2 GiB and shall not lie beside the graph, or one
            tensor does.
        MissingExtraError: If onnx or onnxruntime is not installed.

    Example:
        >>> model = st_plugins.load("minilm-elastic")
        >>> report = export_onnx(model, "minilm-3x128-onnx", sizes=[(3, 128)])
        >>> [(size.layer, size.dim, size.file) for size in report.sizes]
        [(6, 384, 'onnx/model.onnx'), (3, 128, 'onnx/model_L3_D128.onnx')]
        >>> report.max_difference < 1e-6
        True
    """
    _check_choices(layout, packed, external_data, opset)
    bars, to_fit = wanted_precisions(precisions, min_cosine), checked_texts(calibration_texts)
    sizes, exits = list(sizes or ()), exits if isinstance(exits, str) else list(exits)  # read once, for every route
    if has_routes(model):
        export = partial(
            export_onnx,
            sizes=sizes,
            exits=exits,
            layer_per_text=layer_per_text,
            layout=layout,
            packed=packed,
            external_data=external_data,
            precisions=[precision.name for precision in bars],
            min_cosine=min_cosine,
            calibration_texts=to_fit,
            opset=opset,
            tolerance=tolerance,
            show_progress=show_progress,
        )
        return export_routes(model, Path(folder), export)
    lower = [precision.name for precision in bars[1:]]
    check_exportable(model, external_data=external_data, precisions=lower)
    model = in_float32(model)
    wanted = wanted_sizes(model, sizes)
    leaving = wanted_exits(model, exits, layer_per_text=layer_per_text)
    _check_names(wanted, leaving, bars)
    count = (len(wanted) + len(leaving)) * (len(bars) + 1)
    steps = tqdm(total=count, desc="Export", unit="step", disable=not show_progress)
    with staged_folder(Path(folder)) as staged, steps:
        files = ExportFiles(
            model,
            staged,
            GraphWriter(staged, external_data=external_data),
            precisions=bars,
            calibration_texts=to_fit,
            layout=layout,
            packed=packed,
            opset=opset,
            progress=steps,
        )
        costs = files.write(wanted, leaving, tolerance)
        return _checked(model, Path(folder), staged, costs, bars, tolerance, steps)


def _check_choices(layout: str, packed: bool | str, external_data: bool | str, opset: int) -> None:
    for package in ("onnx", "onnxruntime"):
        require(package, extra="onnx")
    check_layout(layout)
    check_packed(packed)
    check_external_data(external_data)
    if opset not in OPSETS:
        raise ExportError(f"opset must be one of {list(OPSETS)}, got {opset!r}.")


def _checked(
    model: SentenceTransformer,
    target: Path,
    staged: Path,
    costs: Mapping[str, Cost],
    bars: Sequence[Precision],
    tolerance: float,
    steps: tqdm,
) -> ExportReport:
    """Compare finished files with torch, and leave the report beside them."""
    opened = OpenedExport(staged)
    found = check_opened(model, opened, bars=bars, tolerance=tolerance, after_each=steps.update)
    report = ExportReport(
        target,
        tolerance,
        tuple(_with_cost(size, costs[size.file]) for size in found.sizes),
        tuple(_with_cost(exported, costs[exported.file]) for exported in found.exits),
        found.tried,
    )
    add_file(staged, opened.manifest, REPORT_FILE, report.as_json(), reached=report.reached)
    return report


def _check_names(wanted: Sequence[tuple[int, int]], leaving: Sequence[WantedExit], bars: Sequence[Precision]) -> None:
    names = [graph_file(*size, is_full=size == wanted[0]) for size in wanted]
    names += [exit_file(exported.name) for exported in leaving]
    files = Counter(file_in(name, precision.suffix) for name in names for precision in bars)
    for file, count in files.items():
        if count > 1:
            raise ExportError(f"These exits and precisions would write {file} twice. Rename the policy.")


def _with_cost(report: Reported, cost: Cost) -> Reported:
    return replace(report, seconds=report.seconds + cost.seconds, fallbacks=cost.fallbacks)
