"""Runs an export: texts in, vectors out, with numpy, tokenizers and onnxruntime only."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from st_plugins.errors import ExitError, InputError
from st_plugins_export.choices import check_positive, checked_layers, cut, find_exit, find_size
from st_plugins_export.entries import ExportedExit, ExportedSize
from st_plugins_export.exported_facts import ExportedFacts
from st_plugins_export.opened import OpenedExport
from st_plugins_export.prompts import resolve_prompt, usual_prompt, with_prompt
from st_plugins_export.providers import CPU
from st_plugins_export.routes import read_routes
from st_plugins_export.text_run import encode_texts
from st_plugins_export.workers import cores

logger = logging.getLogger(__name__)

# While one batch runs on the device, the other is put together.
_WORKERS_OF_A_DEVICE = 2


class OnnxEncoder(ExportedFacts):
    """An exported model with the methods of a ``SentenceTransformer`` that retrieval needs.

    It gives the vectors that ``SentenceTransformer.encode`` gives, one export file per size, on any machine that runs
    onnxruntime; torch is not needed. It does not train, and runs no size that was not exported, except narrower cuts
    of exported vectors to dims the model was trained for.

    A text longer than ``max_seq_length`` tokens is cut, as in sentence-transformers; each call that cut any says how
    many in one warning of the logger ``st_plugins_export.runtime``. One encoder may serve many threads, and goes on
    working in a forked process. That process has to end as ``multiprocessing`` ends its own, by ``os._exit``, as
    onnxruntime 1.31 hangs in ``sys.exit``. CUDA does not survive a fork; spawn processes instead.

    The batches of a call run side by side, each on one core, which is faster than one batch on all cores, and needs no
    second copy of the weights; ``cores_per_batch`` is for servers that answer one long text at a time. A graph is read
    when its size or exit is first asked for, and stays in memory, about as large as its file.

    Args:
        folder: What :func:`st_plugins_export.export_onnx` wrote. Every file is compared with the manifest before it is
            used; the graph of a size is opened when the size is first asked for.
        precision: Which of the exported precisions to run; an error names them.
        providers: Where to run: "cpu", "cuda", "cuda:1", any execution provider of ONNX Runtime, or several in order of
            preference. None for the CPU. The first must start, or the first call fails: nothing falls back silently.
        threads: Batches of one call that run at the same time; None for one per core (fewer where ``cores_per_batch``
            takes more), and two on a GPU, so that it need not wait for the host.
        cores_per_batch: Cores that one batch may use on the CPU. With more than 1 a single long text is sooner done,
            and a list of texts later.
        token_budget: Tokens per batch, padding included; None for 512 on the CPU, which stay in a core's cache, and
            16,384 on a GPU.

    Raises:
        MissingExtraError: If onnxruntime or tokenizers is not installed.
        ManifestError: If the folder is incomplete or was changed.
        UnsafeModelError: If it contains links or leads out of itself.
        PrecisionError: If the folder does not have the precision.
        ProviderError: If a provider is not part of the installed onnxruntime.
        ValueError: If a number is not positive.

    Example:
        >>> encoder = OnnxEncoder("minilm-onnx")
        >>> encoder.encode(["A text", "Another one"]).shape
        (2, 384)
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        precision: str = "fp32",
        providers: str | Sequence[str] | None = None,
        threads: int | None = None,
        cores_per_batch: int = 1,
        token_budget: int | None = None,
    ) -> None:
        check_positive("cores_per_batch", cores_per_batch)
        for name, value in (("token_budget", token_budget), ("threads", threads)):
            if value is not None:
                check_positive(name, value)
        routes = read_routes(Path(folder))
        home = Path(folder) if routes is None else Path(folder) / routes.default_route
        self._opened = OpenedExport(home, providers=providers, threads=cores_per_batch)
        super().__init__(self._opened.manifest.at(precision), routes, precision)
        self._token_budget = token_budget or self._opened.provider.token_budget
        is_cpu = self._opened.provider.name == CPU
        self._workers = threads or (max(1, cores() // cores_per_batch) if is_cpu else _WORKERS_OF_A_DEVICE)
        options: dict[str, Any] = {"precision": precision, "providers": providers}
        options |= {"threads": threads, "cores_per_batch": cores_per_batch, "token_budget": token_budget}
        others = () if routes is None else routes.others
        self._on_other_routes = {name: OnnxEncoder(home.parent / name, **options) for name in others}

    @property
    def tokenizer(self) -> Any:
        """The ``tokenizers.Tokenizer``, of the default route if there are several; it cuts texts, and does not pad."""
        return self._opened.tokenizer

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        layer: int | None = None,
        exit: str | None = None,
        truncate_dim: int | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        normalize_embeddings: bool = False,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
    ) -> np.ndarray:
        """The vector of each text.

        Args:
            texts: N texts, or a single one.
            layer: Blocks to run; None for the full depth.
            exit: An exported exit policy: each text leaves at the layer it needs. Goes without ``layer``.
            truncate_dim: Width of the vectors; None for the full one. A cut vector has unit length.
            prompt: Put in front of every text. Goes before ``prompt_name``.
            prompt_name: A prompt of the model by its name; without both, the model's default prompt if it has one.
            normalize_embeddings: Give all vectors unit length, also where the model does not.
            batch_size: Most texts per batch; None leaves it to the token budget.
            show_progress_bar: Show one, over texts.

        Returns:
            np.ndarray: (N, dim) float32, in the order of the texts; (dim,) for a single text.

        Raises:
            TypeError: If something is not a string. Names its position.
            InputError: If a text cannot be embedded (position named), or there is no such prompt.
            SizeError: If the size was not exported. Lists those that were.
            ExitError: If the exit policy was not exported. Lists those that were.

        Example:
            >>> encoder = OnnxEncoder("minilm-onnx")
            >>> encoder.encode(["A text"], layer=3, truncate_dim=128).shape
            (1, 128)
        """
        graph: ExportedSize | ExportedExit
        if exit is None:
            graph, dim = find_size(self._manifest, layer, truncate_dim)
        elif layer is None:
            graph, dim = find_exit(self._manifest, exit, truncate_dim)
        else:
            raise ExitError(f"exit decides the layer of each text: leave layer out, got {exit=} and {layer=}.")
        prompt = resolve_prompt(self._manifest, prompt, prompt_name)
        embeddings = self._encode(texts, prompt, graph, dim, None, batch_size, show_progress_bar)[0]
        embeddings = cut(embeddings, dim) if normalize_embeddings else embeddings
        return embeddings[0] if isinstance(texts, str) else embeddings

    def encode_with_exits(
        self,
        texts: Sequence[str],
        *,
        exit: str | None = None,
        layers: Sequence[int] | None = None,
        truncate_dim: int | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        normalize_embeddings: bool = False,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The vector of each text, and the layer it left at.

        Of an export with routes, on the default one; ``for_task("query").encode_with_exits(...)`` takes another.

        Args:
            texts: N texts.
            exit: An exported exit policy.
            layers: In its place, the layer of each text; for an export with ``layer_per_text=True``.
            truncate_dim: As in :meth:`encode`.
            prompt: As in :meth:`encode`.
            prompt_name: As in :meth:`encode`.
            normalize_embeddings: As in :meth:`encode`.
            batch_size: As in :meth:`encode`.
            show_progress_bar: As in :meth:`encode`.

        Returns:
            tuple: (N, dim) float32, and (N,) int64.

        Raises:
            ExitError: Unless one of ``exit`` and ``layers`` is given, and was exported.
            TypeError, InputError, SizeError: As :meth:`encode`; also if layers do not fit the texts or the export.
        """
        if (exit is None) == (layers is None):
            raise ExitError(f"encode_with_exits takes either exit or layers, got {exit=} and {layers=}.")
        if isinstance(texts, str):
            raise InputError("texts must be a list of texts, got one text. Put it in a list.")
        graph, dim = find_exit(self._manifest, exit, truncate_dim)
        told = None if layers is None else checked_layers(layers, graph, len(texts))
        prompt = resolve_prompt(self._manifest, prompt, prompt_name)
        embeddings, left = self._encode(texts, prompt, graph, dim, told, batch_size, show_progress_bar)
        return cut(embeddings, dim) if normalize_embeddings else embeddings, left

    def encode_query(
        self,
        texts: str | Sequence[str],
        *,
        layer: int | None = None,
        exit: str | None = None,
        truncate_dim: int | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        normalize_embeddings: bool = False,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
    ) -> np.ndarray:
        """:meth:`encode` with the prompt ``"query"``, if the model has it and no other is given; else the same."""
        return self.for_task("query").encode(
            texts,
            layer=layer,
            exit=exit,
            truncate_dim=truncate_dim,
            prompt=prompt,
            prompt_name=usual_prompt(self._manifest, "query", prompt, prompt_name),
            normalize_embeddings=normalize_embeddings,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
        )

    def encode_document(
        self,
        texts: str | Sequence[str],
        *,
        layer: int | None = None,
        exit: str | None = None,
        truncate_dim: int | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        normalize_embeddings: bool = False,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
    ) -> np.ndarray:
        """:meth:`encode` with the first of the prompts ``"document"``, ``"passage"``, ``"corpus"`` the model has, if no
        other is given; else the same.
        """
        return self.for_task("document").encode(
            texts,
            layer=layer,
            exit=exit,
            truncate_dim=truncate_dim,
            prompt=prompt,
            prompt_name=usual_prompt(self._manifest, "document", prompt, prompt_name),
            normalize_embeddings=normalize_embeddings,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
        )

    def for_task(self, task: str) -> "OnnxEncoder":
        """The encoder of the route that ``"query"`` or ``"document"`` takes; this one if the export has no routes.

        Raises:
            InputError: If the Router had no route for it.
        """
        return self if self._routes is None else self._on_other_routes.get(self._routes.route_of(task), self)

    def _encode(
        self,
        texts: str | Sequence[str],
        prompt: str,
        graph: ExportedSize | ExportedExit,
        dim: int,
        layers: np.ndarray | None,
        batch_size: int | None,
        show_progress_bar: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vectors (N, dim) and layers of exit (N,); ``layers`` (N,) says where to leave."""
        if batch_size is not None:
            check_positive("batch_size", batch_size)
        complete = with_prompt(texts, prompt)
        embeddings, exit_layer, cut_texts = encode_texts(
            self._opened,
            complete,
            graph,
            dim,
            layers,
            prompt_length=self._opened.prompt_length(prompt),
            token_budget=self._token_budget,
            batch_size=batch_size,
            workers=self._workers,
            show_progress_bar=show_progress_bar,
        )
        if cut_texts:
            logger.warning(
                "%d of %d texts have more than %s tokens and were cut.", cut_texts, len(complete), self.max_seq_length
            )
        return embeddings, exit_layer
