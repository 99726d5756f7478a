"""Runs an export: texts in, vectors out, with numpy, tokenizers and onnxruntime only."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from st_plugins.errors import InputError, SizeError
from st_plugins_export.batches import plan_batches
from st_plugins_export.layout import ExportedSize
from st_plugins_export.opened import OpenedExport

logger = logging.getLogger(__name__)

# Texts in memory as tokens at once; large enough that sorting them by length leaves almost no padding.
_CHUNK = 8192
# The names sentence-transformers looks for, in its order.
_QUERY_PROMPTS = ("query",)
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


class OnnxEncoder:
    """An exported model with the methods of a ``SentenceTransformer`` that retrieval needs.

    It gives the vectors that ``SentenceTransformer.encode`` gives, one export file per size, on any machine that runs
    onnxruntime; torch is not needed. It does not train, and runs no size that was not exported, except narrower cuts
    of exported vectors to dims the model was trained for.

    A text longer than ``max_seq_length`` tokens is cut, as in sentence-transformers; each call that cut any says how
    many in one warning of the logger ``st_plugins_export.runtime``. One encoder may serve many threads.

    Args:
        folder: What :func:`st_plugins_export.export_onnx` wrote. Every file is compared with the manifest before it is
            used; the graph of a size is opened when the size is first asked for.
        providers: ONNX Runtime execution providers in order of preference; None for the CPU.
        threads: Threads one batch may use; None leaves it to ONNX Runtime (all cores).
        token_budget: Tokens per batch, padding included. The default 512 keeps a batch in a CPU core's cache; raise it
            for a GPU, which has more to do at once.

    Raises:
        MissingExtraError: If onnxruntime or tokenizers is not installed.
        ManifestError: If the folder is incomplete or was changed.
        UnsafeModelError: If it contains links or leads out of itself.
        ValueError: If a provider is not part of the installed onnxruntime, or a number is not positive.

    Example:
        >>> encoder = OnnxEncoder("minilm-onnx")
        >>> encoder.encode(["A text", "Another one"]).shape
        (2, 384)
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
        token_budget: int = 512,
    ) -> None:
        _check_positive("token_budget", token_budget)
        if threads is not None:
            _check_positive("threads", threads)
        self._token_budget = token_budget
        self._opened = OpenedExport(Path(folder), providers=providers, threads=threads)
        self._manifest = self._opened.manifest

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """The exported sizes (layer, dim), the full one first."""
        return tuple((size.layer, size.dim) for size in self._manifest.sizes)

    @property
    def fingerprint(self) -> str:
        """Identity of the vectors at full size; equals ``st_plugins.fingerprint`` of the model that was exported."""
        return self._manifest.full.fingerprint

    @property
    def max_seq_length(self) -> int | None:
        """Tokens after which a text is cut, special tokens included; None for no limit."""
        return self._manifest.max_seq_length

    def get_embedding_dimension(self) -> int:
        """Width of the vectors at full size."""
        return self._manifest.full.dim

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        layer: int | None = None,
        truncate_dim: int | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
    ) -> np.ndarray:
        """The vector of each text.

        Args:
            texts: N texts, or a single one.
            layer: Blocks to run; None for the full depth.
            truncate_dim: Width of the vectors; None for the full one. A cut vector has unit length.
            prompt: Put in front of every text. Goes before ``prompt_name``.
            prompt_name: A prompt of the model by its name; without both, the model's default prompt if it has one.
            batch_size: Most texts per batch; None leaves it to the token budget.
            show_progress_bar: Show one, over texts.

        Returns:
            np.ndarray: (N, dim) float32, in the order of the texts; (dim,) for a single text.

        Raises:
            TypeError: If something is not a string. Names its position.
            InputError: If a text cannot be embedded (position named), or there is no such prompt.
            SizeError: If the size was not exported. Lists those that were.

        Example:
            >>> encoder = OnnxEncoder("minilm-onnx")
            >>> encoder.encode(["A text"], layer=3, truncate_dim=128).shape
            (1, 128)
        """
        if batch_size is not None:
            _check_positive("batch_size", batch_size)
        size, dim = self._find_size(layer, truncate_dim)
        prefix = self._resolve_prompt(prompt, prompt_name)
        is_single = isinstance(texts, str)
        complete = _with_prompt([texts] if isinstance(texts, str) else list(texts), prefix)
        self._opened.session(size)  # proves that the graph is this wide before memory is taken for it
        embeddings = np.empty((len(complete), dim), dtype=np.float32)
        truncated = 0
        with _progress(len(complete), show_progress_bar) as progress:
            for start in range(0, len(complete), _CHUNK):
                chunk = slice(start, start + _CHUNK)
                truncated += self._encode_chunk(complete[chunk], start, size, batch_size, embeddings[chunk], progress)
        if truncated:
            logger.warning(
                "%d of %d texts have more than %s tokens and were cut.", truncated, len(complete), self.max_seq_length
            )
        return embeddings[0] if is_single else embeddings

    def encode_query(
        self,
        texts: str | Sequence[str],
        *,
        layer: int | None = None,
        truncate_dim: int | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
    ) -> np.ndarray:
        """:meth:`encode` with the prompt ``"query"``, if the model has it and no other is given.

        All else, arguments included, is as in :meth:`encode`.
        """
        return self.encode(
            texts,
            layer=layer,
            truncate_dim=truncate_dim,
            prompt=prompt,
            prompt_name=self._first_prompt(_QUERY_PROMPTS) if prompt is None and prompt_name is None else prompt_name,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
        )

    def encode_document(
        self,
        texts: str | Sequence[str],
        *,
        layer: int | None = None,
        truncate_dim: int | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
    ) -> np.ndarray:
        """:meth:`encode` with the first of the prompts ``"document"``, ``"passage"``, ``"corpus"`` the model has, if no
        other is given.

        All else, arguments included, is as in :meth:`encode`.
        """
        return self.encode(
            texts,
            layer=layer,
            truncate_dim=truncate_dim,
            prompt=prompt,
            prompt_name=self._first_prompt(_DOCUMENT_PROMPTS)
            if prompt is None and prompt_name is None
            else prompt_name,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
        )

    def _encode_chunk(
        self,
        texts: list[str],
        start: int,
        size: ExportedSize,
        batch_size: int | None,
        out: np.ndarray,
        progress: Any,
    ) -> int:
        """Fill ``out`` (N, dim); returns how many texts were cut."""
        encodings = self._opened.tokenize(texts, first_position=start)
        lengths = [len(encoding) for encoding in encodings]
        for rows in plan_batches(lengths, self._token_budget, batch_size):
            embeddings = self._opened.embed([encodings[row] for row in rows], size)  # (B, size.dim)
            is_finite = np.isfinite(embeddings).all(axis=1)
            if not is_finite.all():
                position = start + int(rows[~is_finite].min())
                raise InputError(
                    f"The model gives NaN or infinity for the text at position {position}. Leave it out, and check "
                    "the model's weights: one bad number in them is enough."
                )
            out[rows] = embeddings if out.shape[1] == size.dim else _cut(embeddings, out.shape[1])
            progress.update(len(rows))
        return sum(1 for encoding in encodings if encoding.overflowing)

    def _find_size(self, layer: int | None, dim: int | None) -> tuple[ExportedSize, int]:
        """The graph to run and the width to cut its vectors to."""
        full = self._manifest.full
        layer = full.layer if layer is None else layer
        dim = full.dim if dim is None else dim
        at_layer = [size for size in self._manifest.sizes if size.layer == layer]
        for size in at_layer:
            if size.dim == dim:
                return size, dim
        for size in sorted(at_layer, key=lambda size: size.dim):
            if dim in size.trained_dims and dim < size.dim:
                return size, dim
        available = sorted(
            {(size.layer, width) for size in self._manifest.sizes for width in (size.dim, *size.trained_dims)}
        )
        raise SizeError(
            f"The export has these sizes (layer, dim): {available}, got layer={layer}, truncate_dim={dim}. "
            "Export the size as well: export_onnx(model, folder, sizes=[(layer, dim)])."
        )

    def _resolve_prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        prompts = self._manifest.prompts
        if prompt is None:
            prompt_name = self._manifest.default_prompt_name if prompt_name is None else prompt_name
            if prompt_name is not None and prompt_name not in prompts:
                raise InputError(
                    f"prompt_name must be one of the model's prompts, {list(prompts)}, got {prompt_name!r}."
                )
            prompt = "" if prompt_name is None else prompts[prompt_name]
        if prompt and not self._manifest.include_prompt:
            raise InputError(
                "This model leaves the prompt out of its pooling, which the graph cannot do, so no prompt can be used, "
                f"got {prompt!r}. Run it with sentence-transformers."
            )
        return prompt

    def _first_prompt(self, names: Sequence[str]) -> str | None:
        return next((name for name in names if name in self._manifest.prompts), None)


def _with_prompt(texts: list[Any], prefix: str) -> list[str]:
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"Every text must be a string, got {type(text).__name__} at position {position}.")
    return [prefix + text for text in texts] if prefix else texts


def _cut(embeddings: np.ndarray, dim: int) -> np.ndarray:
    """First ``dim`` coordinates of each row of (B, D), as unit vectors (B, dim); a zero row stays zero."""
    embeddings = embeddings[:, :dim]
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)


def _progress(total: int, is_shown: bool) -> Any:
    from tqdm import tqdm  # comes with tokenizers (through huggingface-hub)

    return tqdm(total=total, desc="Texts", unit="text", disable=not is_shown)


def _check_positive(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}.")
