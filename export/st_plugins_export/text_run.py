"""One call of an encoder: texts to vectors, in batches that are tokenized while earlier ones run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from st_plugins_export.batches import plan_batches
from st_plugins_export.choices import check_finite, cut
from st_plugins_export.entries import ExportedExit, ExportedSize
from st_plugins_export.opened import OpenedExport
from st_plugins_export.workers import run_batches

# Texts in memory as tokens at once; large enough that sorting them by length leaves almost no padding.
_CHUNK = 8192


@dataclass(frozen=True)
class _Batch:
    places: np.ndarray  # (B,), in the call
    encodings: list[Any]

    def __len__(self) -> int:
        return len(self.places)


def encode_texts(
    opened: OpenedExport,
    texts: list[str],
    graph: ExportedSize | ExportedExit,
    dim: int,
    layers: np.ndarray | None,
    *,
    prompt_length: int = 0,
    token_budget: int,
    batch_size: int | None,
    workers: int,
    show_progress_bar: bool,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Run a graph on texts.

    Args:
        opened: The export.
        texts: N texts, prompts included.
        graph: One of its sizes or exits.
        dim: Width to cut the vectors to.
        layers: (N,) where each text shall leave, for the graph that is told; else None.
        prompt_length: What ``opened.prompt_length`` says of the prompt.
        token_budget: Tokens per batch, padding included.
        batch_size: Most texts per batch, or None.
        workers: Batches at the same time.
        show_progress_bar: Over texts.

    Returns:
        tuple: (N, dim) float32, (N,) int64, the layers they left at, and how many texts were longer than the limit.

    Raises:
        InputError: If a text cannot be tokenized or gives NaN. Names its position.

    Example:
        >>> from pathlib import Path
        >>> opened = OpenedExport(Path("minilm-onnx"))
        >>> options = {"token_budget": 512, "batch_size": None, "workers": 2, "show_progress_bar": False}
        >>> encode_texts(opened, ["a", "b"], opened.manifest.full, 384, None, **options)[0].shape
        (2, 384)
    """
    opened.session(graph)  # proves that the graph is this wide before memory is taken for it
    embeddings = np.empty((len(texts), dim), dtype=np.float32)
    exit_layer = np.empty(len(texts), dtype=np.int64)
    is_cut = np.zeros(len(texts), dtype=bool)

    def run(batch: _Batch) -> int:
        told = None if layers is None else layers[batch.places]
        embeddings[batch.places], exit_layer[batch.places] = _run(opened, batch, graph, dim, told, prompt_length)
        return len(batch)

    batches = _batches(opened, texts, token_budget, batch_size, is_cut)
    with _progress(len(texts), show_progress_bar) as update:
        run_batches(batches, run, update, workers=workers, ahead=_CHUNK)
    return embeddings, exit_layer, int(is_cut.sum())


def _batches(
    opened: OpenedExport, texts: list[str], token_budget: int, batch_size: int | None, is_cut: np.ndarray
) -> Iterator[_Batch]:
    """The texts as batches; marks those that are cut."""
    for start in range(0, len(texts), _CHUNK):
        encodings = opened.tokenize(texts[start : start + _CHUNK], first_position=start)
        is_cut[start : start + _CHUNK] = [bool(encoding.overflowing) for encoding in encodings]
        lengths = [len(encoding) for encoding in encodings]
        for rows in plan_batches(lengths, token_budget, batch_size):
            yield _Batch(start + rows, [encodings[row] for row in rows])


def _run(
    opened: OpenedExport,
    batch: _Batch,
    graph: ExportedSize | ExportedExit,
    dim: int,
    layers: np.ndarray | None,
    prompt_length: int,
) -> tuple[np.ndarray, np.ndarray | int]:
    """Vectors (B, dim) and layers of exit."""
    exit_layer: np.ndarray | int
    if isinstance(graph, ExportedExit):
        embeddings, exit_layer = opened.embed_with_exits(batch.encodings, graph, layers, prompt_length=prompt_length)
    else:
        embeddings, exit_layer = opened.embed(batch.encodings, graph, prompt_length=prompt_length), graph.layer
    check_finite(embeddings, batch.places)
    return embeddings if dim == graph.dim else cut(embeddings, dim), exit_layer


@contextmanager
def _progress(total: int, is_shown: bool) -> Iterator[Callable[[int], object]]:
    """A bar over texts, as a function to call with the number of texts done."""
    if not is_shown:
        yield lambda done: None
        return
    from tqdm import tqdm  # comes with tokenizers (through huggingface-hub)

    with tqdm(total=total, desc="Texts", unit="text") as bar:
        yield bar.update
