"""An opened export: texts to tokens, and one batch of tokens to vectors. No policy; see ``runtime.py`` for that.

Needs numpy, tokenizers and onnxruntime.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from st_plugins.errors import InputError, ManifestError
from st_plugins_export.batches import pad
from st_plugins_export.entries import ExportedExit, ExportedSize
from st_plugins_export.extras import require
from st_plugins_export.layout import TOKENIZER_FILE, read_manifest, read_verified

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_OUTPUT = "sentence_embedding"
_EXIT_OUTPUT = "exit_layer"
_LAYER_INPUT = "layer"
# No file can lie below a device.
_NOWHERE = os.devnull


class OpenedExport:
    """The tokenizer and the graphs of one folder. Graphs are opened when they are first used; threads may share it.

    Args:
        folder: What :func:`st_plugins_export.export_onnx` wrote.
        providers: ONNX Runtime execution providers in order of preference; None for the CPU.
        threads: Threads one batch may use; None leaves it to ONNX Runtime (all cores).

    Raises:
        MissingExtraError: If onnxruntime or tokenizers is not installed.
        ManifestError: If the folder is incomplete or was changed.
        UnsafeModelError: If it contains links or leads out of itself.
        ValueError: If a provider is not part of the installed onnxruntime.

    Example:
        >>> opened = OpenedExport(Path("minilm-onnx"))
        >>> opened.embed(opened.tokenize(["A text"]), opened.manifest.full).shape
        (1, 384)
    """

    def __init__(self, folder: Path, *, providers: Sequence[str] | None = None, threads: int | None = None) -> None:
        self._onnxruntime = require("onnxruntime", extra="onnx")
        self._providers = self._checked_providers(providers)
        self._threads = threads
        self.folder = folder.absolute()  # graphs are opened later, perhaps from another working directory
        self.manifest = read_manifest(folder)
        self._tokenizer = _open_tokenizer(read_verified(folder, TOKENIZER_FILE, self.manifest))
        # The file carries the padding of the model; texts are padded here, after they were sorted.
        self._padding = self._tokenizer.padding
        self._tokenizer.no_padding()
        self._sessions: dict[str, Any] = {}
        self._lock = Lock()

    def tokenize(self, texts: Sequence[str], *, first_position: int = 0) -> list[Any]:
        """Tokens of each text, special tokens included, cut to the model's length, not padded.

        Args:
            texts: Complete texts: prompts are already in front.
            first_position: Position of the first one in what the caller was given, for the messages.

        Returns:
            list: One ``tokenizers.Encoding`` per text; what was cut off is in ``overflowing``.

        Raises:
            InputError: If a text holds a lone surrogate, or has no token at all. Names its position.
        """
        try:
            encodings = self._tokenizer.encode_batch_fast(list(texts))
        except TypeError:
            for position, text in enumerate(texts, first_position):
                _check_unicode(text, position)
            raise
        for position, (text, encoding) in enumerate(zip(texts, encodings, strict=True), first_position):
            if not len(encoding):
                raise InputError(f"The text at position {position} has no tokens ({text!r}). Leave it out.")
        return encodings

    def embed(self, encodings: Sequence[Any], size: ExportedSize) -> np.ndarray:
        """Run one batch, padded to its longest text.

        Args:
            encodings: B results of :meth:`tokenize`.
            size: One of ``manifest.sizes``.

        Returns:
            np.ndarray: (B, dim) float32.
        """
        return self.run([_OUTPUT], encodings, size)[0]  # (B, dim)

    def embed_with_exits(
        self, encodings: Sequence[Any], exported: ExportedExit, layers: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Run one batch whose texts leave at layers of their own.

        Args:
            encodings: B results of :meth:`tokenize`.
            exported: One of ``manifest.exits``.
            layers: (B,) integers, where each text shall leave; for the graph without a policy.

        Returns:
            tuple: (B, dim) float32, and (B,) int64, the layers they left at.
        """
        embeddings, exit_layer = self.run([_OUTPUT, _EXIT_OUTPUT], encodings, exported, layers)
        return embeddings, exit_layer

    def run(
        self,
        outputs: Sequence[str],
        encodings: Sequence[Any],
        graph: ExportedSize | ExportedExit,
        layers: np.ndarray | None = None,
    ) -> list[np.ndarray]:
        """Run one batch for any outputs of a graph.

        Args:
            outputs: Their names.
            encodings: B results of :meth:`tokenize`.
            graph: One of ``manifest.sizes`` or ``manifest.exits``.
            layers: (B,) integers, where each text shall leave; for the graph without a policy.

        Returns:
            list: One array per name.
        """
        inputs = self._inputs(encodings)
        if layers is not None:
            inputs[_LAYER_INPUT] = np.asarray(layers, dtype=np.int64)
        return self.session(graph).run(list(outputs), inputs)

    def _inputs(self, encodings: Sequence[Any]) -> dict[str, np.ndarray]:
        side = self._padding["direction"]
        tensors = {
            "input_ids": pad([encoding.ids for encoding in encodings], self._padding["pad_id"], side=side),
            "attention_mask": pad([encoding.attention_mask for encoding in encodings], 0, side=side),
            "token_type_ids": pad(
                [encoding.type_ids for encoding in encodings], self._padding["pad_type_id"], side=side
            ),
        }  # each (B, T)
        return {name: tensors[name] for name in self.manifest.inputs}

    def session(self, graph: ExportedSize | ExportedExit) -> Any:
        """The onnxruntime session of a graph, opened and checked on first use.

        Args:
            graph: One of ``manifest.sizes`` or ``manifest.exits``.

        Returns:
            onnxruntime.InferenceSession: Gives vectors of ``graph.dim`` numbers.

        Raises:
            ManifestError: If the graph is not the one that was exported, or not what the manifest says it is.
            UnsafeModelError: If it is a link or lies outside the folder.
        """
        with self._lock:
            if graph.file not in self._sessions:
                self._sessions[graph.file] = self._open(graph)
            return self._sessions[graph.file]

    def _open(self, graph: ExportedSize | ExportedExit) -> Any:
        content = read_verified(self.folder, graph.file, self.manifest)
        options = self._onnxruntime.SessionOptions()
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        # Waiting threads would otherwise burn the cores that other sessions and the tokenizer need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Our graphs hold their weights. One that names a file outside itself finds an empty place, not your disk.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NOWHERE)
        try:
            session = self._onnxruntime.InferenceSession(content, options, providers=self._providers)
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise ManifestError(
                f"onnxruntime {self._onnxruntime.__version__} cannot open {self.folder / graph.file}: {error}"
            ) from error
        self._check_signature(session, graph)
        return session

    def _check_signature(self, session: Any, graph: ExportedSize | ExportedExit) -> None:
        inputs = tuple(tensor.name for tensor in session.get_inputs())
        outputs = {tensor.name: tensor.shape[-1] for tensor in session.get_outputs()}
        expected = self.manifest.inputs
        is_complete = set(expected) <= set(_INPUTS)
        if isinstance(graph, ExportedExit):
            expected = expected if graph.name is not None else (*expected, _LAYER_INPUT)
            is_complete = is_complete and _EXIT_OUTPUT in outputs
        if inputs != expected or outputs.get(_OUTPUT) != graph.dim or not is_complete:
            raise ManifestError(
                f"{self.folder / graph.file} must turn {expected} into {_OUTPUT!r} of width {graph.dim}, "
                f"it turns {inputs} into {outputs}. Export the model again."
            )

    def _checked_providers(self, providers: Sequence[str] | None) -> list[str]:
        available = self._onnxruntime.get_available_providers()
        wanted = ["CPUExecutionProvider"] if providers is None else list(providers)
        missing = [provider for provider in wanted if provider not in available]
        if missing:
            raise ValueError(
                f"providers must be among those of the installed onnxruntime, {available}, got {missing[0]!r}. "
                "For CUDA install st-plugins[onnx-gpu] in place of st-plugins[onnx]."
            )
        return wanted


def _open_tokenizer(content: bytes) -> Any:
    tokenizer_class = require("tokenizers", extra="onnx").Tokenizer
    try:
        tokenizer = tokenizer_class.from_buffer(content)
    except ValueError as error:
        raise ManifestError(f"{TOKENIZER_FILE} is no tokenizer ({error}). Export the model again.") from None
    if tokenizer.padding is None:
        raise ManifestError(f"{TOKENIZER_FILE} must say how to pad, and does not. Export the model again.")
    return tokenizer


def _check_unicode(text: str, position: int) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"The text at position {position} is not valid Unicode ({error}). "
            "Clean it, for instance with text.encode(errors='replace').decode()."
        ) from None
