"""The onnxruntime sessions of an export: opened and checked when first used, shared by threads, renewed by a fork."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakSet

import numpy as np

from st_plugins.errors import ManifestError
from st_plugins_export.entries import ExportedExit, ExportedSize
from st_plugins_export.extras import require
from st_plugins_export.layout import map_verified, read_verified
from st_plugins_export.manifest import Manifest
from st_plugins_export.providers import check_started, wanted_providers

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT = "sentence_embedding"
TOKENS_OUTPUT = "last_hidden_state"
OUTPUTS = (TOKENS_OUTPUT, OUTPUT)  # of every graph, in this order
EXIT_OUTPUT = "exit_layer"
LAYER_INPUT = "layer"  # another name than the output has, as graphs require
# Sums of int8 products saturate on x86 processors without VNNI unless this is set. Elsewhere it changes nothing.
EXACT_SUMS = ("session.x64quantprecision", "1")
# No file can lie below a device.
_NOWHERE = os.devnull


class Sessions:
    """The sessions of one folder, one per graph.

    Args:
        folder: The export.
        manifest: Read from it.
        providers: See :func:`~st_plugins_export.providers.wanted_providers`.
        threads: Threads that one run may use; None leaves it to ONNX Runtime (all cores).

    Raises:
        MissingExtraError: If onnxruntime is not installed.
        ProviderError: If a provider is not part of it.

    Example:
        >>> from st_plugins_export.layout import read_manifest
        >>> folder = Path("minilm-onnx")
        >>> manifest = read_manifest(folder)
        >>> Sessions(folder, manifest).session(manifest.full).get_providers()
        ['CPUExecutionProvider']
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        providers: str | Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        self._onnxruntime = require("onnxruntime", extra="onnx")
        self.providers = wanted_providers(self._onnxruntime, providers)
        self._folder = folder.absolute()  # graphs are opened later, perhaps from another working directory
        self._manifest = manifest
        self._threads = threads
        self._opened: dict[str, Any] = {}
        self._inherited: list[Any] = []
        self._lock = Lock()
        _alive.add(self)

    def session(self, graph: ExportedSize | ExportedExit) -> Any:
        """The onnxruntime session of a graph, opened and checked on first use.

        Args:
            graph: One of ``manifest.sizes`` or ``manifest.exits``.

        Returns:
            onnxruntime.InferenceSession: Gives vectors of ``graph.dim`` numbers.

        Raises:
            ManifestError: If the graph is not the one that was exported, or not what the manifest says it is.
            UnsafeModelError: If it is a link or lies outside the folder.
            ProviderError: If the provider asked for does not start.
        """
        with self._lock:
            if graph.file not in self._opened:
                self._opened[graph.file] = self._open(graph)
            return self._opened[graph.file]

    def run(
        self, graph: ExportedSize | ExportedExit, outputs: Sequence[str], inputs: Mapping[str, np.ndarray]
    ) -> list[np.ndarray]:
        """Run a graph on one batch.

        Args:
            graph: One of ``manifest.sizes`` or ``manifest.exits``.
            outputs: Names of those wanted.
            inputs: All that the graph takes.

        Returns:
            list: The outputs, in that order.
        """
        session = self.session(graph)
        first = self.providers[0]
        if first.bound_to is not None:
            return _run_bound(session, outputs, inputs, first.bound_to, first.device or 0)
        return session.run(outputs, inputs)

    def _open(self, graph: ExportedSize | ExportedExit) -> Any:
        content = read_verified(self._folder, graph.file, self._manifest)
        options = self._onnxruntime.SessionOptions()
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        options.add_session_config_entry(*EXACT_SUMS)
        # Waiting threads would otherwise burn the cores that other sessions and the tokenizer need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # A graph that names a file finds an empty place, not your disk, ...
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NOWHERE)
        data_file = self._manifest.external_data.get(graph.file)
        if data_file is not None:  # ... or this one, which was compared with the manifest and is given from memory.
            data = map_verified(self._folder, data_file, self._manifest)
            options.add_external_initializers_from_files_in_memory([Path(data_file).name], [data], [len(data)])
        entries = [provider.entry for provider in self.providers]
        try:
            session = self._onnxruntime.InferenceSession(content, options, providers=entries)
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise ManifestError(
                f"onnxruntime {self._onnxruntime.__version__} cannot open {self._folder / graph.file}: {error}"
            ) from error
        check_started(self._onnxruntime, session, self.providers)
        self._check_signature(session, graph)
        return session

    def _check_signature(self, session: Any, graph: ExportedSize | ExportedExit) -> None:
        inputs = tuple(tensor.name for tensor in session.get_inputs())
        outputs = {tensor.name: tensor.shape[-1] for tensor in session.get_outputs()}
        expected = self._manifest.inputs
        is_complete = set(expected) <= set(INPUTS)
        if isinstance(graph, ExportedExit):
            expected = expected if graph.name is not None else (*expected, LAYER_INPUT)
            is_complete = is_complete and EXIT_OUTPUT in outputs
        if inputs != expected or outputs.get(OUTPUT) != graph.dim or not is_complete:
            raise ManifestError(
                f"{self._folder / graph.file} must turn {expected} into {OUTPUT!r} of width {graph.dim}, "
                f"it turns {inputs} into {outputs}. Export the model again."
            )

    def start_anew(self) -> None:
        """Forget what a forked process inherited: the threads of its sessions stayed with the parent."""
        self._inherited.append(self._opened)  # closing them would wait for those threads
        self._opened = {}
        self._lock = Lock()


def _run_bound(
    session: Any, outputs: Sequence[str], inputs: Mapping[str, np.ndarray], device: str, index: int
) -> list[np.ndarray]:
    """Run with everything in between on the device: inputs are copied there once, wanted outputs back once."""
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_cpu_input(name, array)
    for name in outputs:
        binding.bind_output(name, device, index)
    session.run_with_iobinding(binding)
    return binding.copy_outputs_to_cpu()


_alive: WeakSet[Sessions] = WeakSet()


def _start_all_anew() -> None:
    for sessions in list(_alive):
        sessions.start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_all_anew)
