"""An opened export: texts to tokens, and one batch of tokens to vectors. No policy; see ``runtime.py`` for that.

Needs numpy, tokenizers and onnxruntime.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from st_plugins.errors import InputError, ManifestError
from st_plugins_export.batches import pad, token_mask
from st_plugins_export.entries import ExportedExit, ExportedSize
from st_plugins_export.extras import require
from st_plugins_export.layout import TOKENIZER_FILE, read_manifest, read_verified
from st_plugins_export.prompt_marks import count_prompt, marked
from st_plugins_export.providers import Provider
from st_plugins_export.sessions import EXIT_OUTPUT, LAYER_INPUT, OUTPUT, Sessions


class OpenedExport:
    """The tokenizer and the graphs of one folder. Graphs are opened when they are first used; threads may share it.

    Args:
        folder: What :func:`st_plugins_export.export_onnx` wrote.
        providers: See :func:`~st_plugins_export.providers.wanted_providers`.
        threads: Threads one batch may use; None leaves it to ONNX Runtime (all cores).

    Raises:
        MissingExtraError: If onnxruntime or tokenizers is not installed.
        ManifestError: If the folder is incomplete or was changed.
        UnsafeModelError: If it contains links or leads out of itself.
        ProviderError: If a provider is not part of the installed onnxruntime.

    Example:
        >>> opened = OpenedExport(Path("minilm-onnx"))
        >>> opened.embed(opened.tokenize(["A text"]), opened.manifest.full).shape
        (1, 384)
    """

    def __init__(
        self, folder: Path, *, providers: str | Sequence[str] | None = None, threads: int | None = None
    ) -> None:
        require("onnxruntime", extra="onnx")
        self.manifest = read_manifest(folder)
        self.folder = folder.absolute()
        self._tokenizer = _open_tokenizer(read_verified(folder, TOKENIZER_FILE, self.manifest))
        # The file carries the padding of the model; texts are padded here, after they were sorted.
        self._padding = self._tokenizer.padding
        self._tokenizer.no_padding()
        self._has_plain_types = _has_plain_types(self._tokenizer, self._padding)
        self._sessions = Sessions(folder, self.manifest, providers=providers, threads=threads)

    @property
    def tokenizer(self) -> Any:
        """The ``tokenizers.Tokenizer``; it cuts texts and does not pad."""
        return self._tokenizer

    @property
    def provider(self) -> Provider:
        """What the graphs run on."""
        return self._sessions.providers[0]

    def session(self, graph: ExportedSize | ExportedExit) -> Any:
        """See :meth:`st_plugins_export.sessions.Sessions.session`."""
        return self._sessions.session(graph)

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

    def prompt_length(self, prompt: str) -> int:
        """Tokens that a prompt puts in front of every text and pooling leaves out; 0 where it covers prompts."""
        special_ids = self.manifest.special_ids
        return 0 if special_ids is None or not prompt else count_prompt(self._tokenizer.encode(prompt).ids, special_ids)

    def embed(self, encodings: Sequence[Any], size: ExportedSize, *, prompt_length: int = 0) -> np.ndarray:
        """Run one batch, padded to its longest text.

        Args:
            encodings: B results of :meth:`tokenize`.
            size: One of ``manifest.sizes``.
            prompt_length: What :meth:`prompt_length` says of the prompt in front of these texts.

        Returns:
            np.ndarray: (B, dim) float32.
        """
        return self.run([OUTPUT], encodings, size, prompt_length=prompt_length)[0]  # (B, dim)

    def embed_with_exits(
        self,
        encodings: Sequence[Any],
        exported: ExportedExit,
        layers: np.ndarray | None = None,
        *,
        prompt_length: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Run one batch whose texts leave at layers of their own.

        Args:
            encodings: B results of :meth:`tokenize`.
            exported: One of ``manifest.exits``.
            layers: (B,) integers, where each text shall leave; for the graph without a policy.
            prompt_length: As for :meth:`embed`.

        Returns:
            tuple: (B, dim) float32, and (B,) int64, the layers they left at.
        """
        outputs = [OUTPUT, EXIT_OUTPUT]
        embeddings, exit_layer = self.run(outputs, encodings, exported, layers, prompt_length=prompt_length)
        return embeddings, exit_layer

    def run(
        self,
        outputs: Sequence[str],
        encodings: Sequence[Any],
        graph: ExportedSize | ExportedExit,
        layers: np.ndarray | None = None,
        *,
        prompt_length: int = 0,
    ) -> list[np.ndarray]:
        """Run one batch for any outputs of a graph.

        Args:
            outputs: Their names.
            encodings: B results of :meth:`tokenize`.
            graph: One of ``manifest.sizes`` or ``manifest.exits``.
            layers: (B,) integers, where each text shall leave; for the graph without a policy.
            prompt_length: As for :meth:`embed`.

        Returns:
            list: One array per name.
        """
        inputs = self.inputs(encodings, prompt_length=prompt_length)
        if layers is not None:
            inputs[LAYER_INPUT] = np.asarray(layers, dtype=np.int64)
        return self.run_tokens(outputs, inputs, graph)

    def run_tokens(
        self, outputs: Sequence[str], inputs: Mapping[str, np.ndarray], graph: ExportedSize | ExportedExit
    ) -> list[np.ndarray]:
        """Run one batch that is padded already.

        Args:
            outputs: Their names.
            inputs: What :meth:`inputs` gives.
            graph: One of ``manifest.sizes`` or ``manifest.exits``.

        Returns:
            list: One array per name.
        """
        return self._sessions.run(graph, outputs, inputs)

    def inputs(self, encodings: Sequence[Any], *, prompt_length: int = 0) -> dict[str, np.ndarray]:
        """What every graph takes, padded to the longest text.

        Args:
            encodings: B results of :meth:`tokenize`.
            prompt_length: As for :meth:`embed`.

        Returns:
            dict: ``manifest.inputs``, each (B, T) int64.
        """
        mask = token_mask([len(encoding) for encoding in encodings], side=self._padding["direction"])
        tensors = {
            "input_ids": pad([encoding.ids for encoding in encodings], self._padding["pad_id"], mask),
            "attention_mask": marked(mask.astype(np.int64), prompt_length),
        }
        if "token_type_ids" in self.manifest.inputs:
            if self._has_plain_types:
                tensors["token_type_ids"] = np.zeros(mask.shape, dtype=np.int64)
            else:
                types = [encoding.type_ids for encoding in encodings]
                tensors["token_type_ids"] = pad(types, self._padding["pad_type_id"], mask)
        return {name: tensors[name] for name in self.manifest.inputs}


def _open_tokenizer(content: bytes) -> Any:
    tokenizer_class = require("tokenizers", extra="onnx").Tokenizer
    try:
        tokenizer = tokenizer_class.from_buffer(content)
    except ValueError as error:
        raise ManifestError(f"{TOKENIZER_FILE} is no tokenizer ({error}). Export the model again.") from None
    if tokenizer.padding is None:
        raise ManifestError(f"{TOKENIZER_FILE} must say how to pad, and does not. Export the model again.")
    return tokenizer


def _has_plain_types(tokenizer: Any, padding: dict[str, Any]) -> bool:
    """Whether all token types are 0. A single text gets them from the tokenizer's template, whatever it says."""
    encoding = tokenizer.encode("a")
    return len(encoding) > 0 and not any(encoding.type_ids) and padding["pad_type_id"] == 0


def _check_unicode(text: str, position: int) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"The text at position {position} is not valid Unicode ({error}). "
            "Clean it, for instance with text.encode(errors='replace').decode()."
        ) from None
