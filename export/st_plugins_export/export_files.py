"""Writes every file of an export: graphs in all sizes, exits and precisions, and what lies beside them. Checks none."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer

import st_plugins
from st_plugins.errors import ExportError
from st_plugins_export.calibration import calibration_batches
from st_plugins_export.entries import ExportedExit, ExportedSize, Probe
from st_plugins_export.exit_graph import write_exit_graph
from st_plugins_export.exit_pieces import with_alignment_of
from st_plugins_export.external_data import GraphWriter, announce_external_data
from st_plugins_export.extras import require
from st_plugins_export.graph import WrittenGraph, plain_copy, write_graph
from st_plugins_export.layout import exit_file, graph_file, write_manifest
from st_plugins_export.lowering import Exported, write_lowered
from st_plugins_export.precisions import Precision
from st_plugins_export.probes import probe_texts
from st_plugins_export.serving import describe, write_serving
from st_plugins_export.sidecars import library_versions, token_limit, write_sidecars
from st_plugins_export.support import includes_prompt
from st_plugins_export.wanted import WantedExit, trained_dims


@dataclass(frozen=True)
class Cost:
    """What writing a graph took, and which operators had to stay float32."""

    seconds: float
    fallbacks: int = 0


class ExportFiles:
    """Writes all files of an export into a folder.

    Args:
        model: What is exported, in float32; left as it is.
        folder: Empty.
        writer: Saves the graphs.
        precisions: Float32 first.
        calibration_texts: What the others are fitted to.
        layout: Of the first output.
        packed: As in :func:`~st_plugins_export.export_onnx`.
        opset: Of the graphs.
        progress: A bar, moved on after each graph.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        folder: Path,
        writer: GraphWriter,
        *,
        precisions: Sequence[Precision],
        calibration_texts: Sequence[str],
        layout: str,
        packed: bool | str,
        opset: int,
        progress: Any,
    ) -> None:
        self._model, self._folder, self._writer, self._precisions = model, folder, writer, precisions
        self._calibration_texts = calibration_texts
        self._layout, self._packed, self._opset, self._progress = layout, packed, opset, progress
        self._full = plain_copy(model)
        self._costs: dict[str, Cost] = {}
        self._inputs: tuple[str, ...] = ()

    def write(
        self, wanted: Sequence[tuple[int, int]], leaving: Sequence[WantedExit], tolerance: float
    ) -> dict[str, Cost]:
        """Write them; the costs of each graph, by its name.

        Args:
            wanted: Sizes (layer, dim), the full one first.
            leaving: Graphs with exits.
            tolerance: What the manifest says was allowed.
        """
        (self._folder / "onnx").mkdir()
        texts = probe_texts(self._full)
        expected = self._full.encode(texts, prompt="", show_progress_bar=False)  # (N, dim)
        sizes = [entry for size in wanted for entry in self._size(*size, is_full=size == wanted[0])]
        exits = [entry for exit_ in leaving for entry in self._exit(exit_)]
        write_sidecars(self._full, self._folder, self._layout)
        if self._writer.beside:
            announce_external_data(self._folder)
        limit, identity = token_limit(self._full.tokenizer), sizes[0].fingerprint
        description = describe(
            self._full, self._layout, inputs=self._inputs, max_seq_length=limit, fingerprint=identity
        )
        write_serving(self._folder, description)
        write_manifest(
            self._folder,
            sizes=tuple(sizes),
            inputs=self._inputs,
            prompts=dict(self._model.prompts),
            default_prompt_name=self._model.default_prompt_name,
            include_prompt=includes_prompt(self._model),
            special_ids=None if includes_prompt(self._model) else tuple(sorted(self._full.tokenizer.all_special_ids)),
            max_seq_length=limit,
            opset=self._opset,
            tolerance=tolerance,
            libraries={**library_versions(), "onnx": require("onnx", extra="onnx").__version__},
            exits=tuple(exits),
            layout=self._layout,
            external_data=self._writer.beside,
            probes=tuple(Probe(*pair) for pair in zip(texts, expected.tolist(), strict=True)),
        )
        return self._costs

    def _size(self, layer: int, dim: int, *, is_full: bool) -> list[ExportedSize]:
        """The graphs of one size."""
        started = time.perf_counter()
        name = graph_file(layer, dim, is_full=is_full)
        cut = (None, None) if is_full else (layer, dim)
        plain = self._full if is_full else plain_copy(self._model, layer=layer, dim=dim)
        packed = self._packed is not False
        graph = write_graph(plain, self._folder / name, self._layout, self._writer, self._opset, packed=packed)
        self._check_packed(name, graph)
        self._inputs = graph.inputs
        identity = st_plugins.fingerprint(self._model, layer=cut[0], dim=cut[1])
        dims = trained_dims(self._model, [layer], dim)
        entry = ExportedSize(
            layer, dim, is_full, name, graph.nodes, identity, dims, padded_because=graph.padded_because
        )
        return self._in_all_precisions(entry, started, None)

    def _exit(self, wanted: WantedExit) -> list[ExportedExit]:
        """The graphs of one exit policy."""
        started = time.perf_counter()
        name = exit_file(wanted.name)
        full = with_alignment_of(self._model, self._full)
        graph = write_exit_graph(
            full,
            self._folder / name,
            wanted.layers,
            wanted.policy,
            self._layout,
            self._writer,
            self._opset,
            packed=self._packed is not False,
        )
        self._check_packed(name, graph)
        identity = policy = None
        if wanted.policy is not None:
            identity = st_plugins.fingerprint(self._model, exit=wanted.policy.name)
            policy = wanted.policy.as_dict()
        dim = self._full.get_embedding_dimension()
        dims = trained_dims(self._model, wanted.layers, dim)
        because = graph.padded_because
        entry = ExportedExit(
            wanted.name, wanted.layers, dim, name, graph.nodes, identity, dims, policy, padded_because=because
        )
        return self._in_all_precisions(entry, started, wanted.layers if wanted.policy is None else None)

    def _check_packed(self, name: str, graph: WrittenGraph) -> None:
        if self._packed is True and graph.padded_because:
            raise ExportError(
                f"{name} must compute real tokens only, as packed=True asks, and cannot: {graph.padded_because}. "
                "Use packed='auto', which leaves such a graph padded and says so in the report."
            )

    def _in_all_precisions(self, entry: Exported, started: float, layers: tuple[int, ...] | None) -> list[Exported]:
        """The graph that was just written in float32, and from it those in other precisions."""
        self._note(entry.file, started, 0)
        entries = [entry]
        batches = calibration_batches(self._full, self._calibration_texts, layers) if len(self._precisions) > 1 else []
        for precision in self._precisions[1:]:
            started = time.perf_counter()
            lowered, fallbacks = write_lowered(self._folder, entry, precision, batches, self._writer)
            self._note(lowered.file, started, fallbacks)
            entries.append(lowered)
        return entries

    def _note(self, file: str, started: float, fallbacks: int) -> None:
        self._costs[file] = Cost(time.perf_counter() - started, fallbacks)
        self._progress.update()
