"""What evaluators of the embeddings themselves have in common: no labels, a few texts, some numbers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator

from st_plugins.errors import InputError
from st_plugins.evaluation.metric_files import add_rows


class AuditEvaluator(SentenceEvaluator, ABC):
    """An evaluator that embeds texts and measures the embeddings; alone, in the trainer, or in a grid of sizes.

    Not an evaluator by itself. A subclass says what it measures: ``metrics`` are the names of its numbers, the primary
    one first, and :meth:`measure` gives them.

    Args:
        name: Prefix of the metrics and part of the file's name.
        batch_size: Texts per batch.
        show_progress_bar: Whether bars count the batches.
        write_csv: Whether to write a file where the trainer gives a folder.
    """

    kind: str
    metrics: tuple[str, ...]

    def __init__(
        self, *, name: str = "", batch_size: int = 32, show_progress_bar: bool = False, write_csv: bool = True
    ) -> None:
        super().__init__()
        self.name = name
        self.batch_size = batch_size
        self.show_progress_bar = show_progress_bar
        self.write_csv = write_csv
        self.primary_metric = self.metrics[0]
        self.csv_file = "_".join(part for part in (self.kind, "evaluation", name, "results.csv") if part)
        self.csv_headers = ["epoch", "steps", *self.metrics]

    @abstractmethod
    def measure(self, model: SentenceTransformer) -> dict[str, float]:
        """A number for each of ``metrics``."""

    def __call__(
        self, model: SentenceTransformer, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Measure a model.

        Args:
            model: Anything with the host's ``encode``.
            output_path: Folder for a CSV, to which each call adds a line; None writes nothing.
            epoch: Written to the file.
            steps: Written to the file.

        Returns:
            dict: The numbers by their names; ``primary_metric`` names the primary one.
        """
        numbers = self.measure(model)
        if output_path is not None and self.write_csv:
            row = [epoch, steps, *(numbers[metric] for metric in self.metrics)]
            add_rows(Path(output_path) / self.csv_file, self.csv_headers, [row])
        self.primary_metric = self.metrics[0]
        prefixed: dict[str, float] = self.prefix_name_to_metrics(numbers, self.name)
        self.store_metrics_in_model_card_data(model, prefixed, epoch, steps)
        return prefixed

    def embed(self, model: SentenceTransformer, texts: Sequence[str]) -> NDArray[np.float64]:
        """The vectors (n, D) as the model gives them, in double precision."""
        vectors = model.encode(list(texts), batch_size=self.batch_size, show_progress_bar=self.show_progress_bar)
        return np.asarray(vectors, dtype=np.float64)


def unit_rows(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Rows at unit length, in double precision; zeros stay zeros.

    Example:
        >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]]))
        array([[0.6, 0.8],
               [0. , 0. ]])
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-300)


def checked_texts(name: str, texts: Sequence[str], least: int) -> list[str]:
    """The texts as a list.

    Args:
        name: Of the argument, for the message.
        texts: At least ``least`` of them.
        least: See above.

    Raises:
        InputError: If they are fewer, or no texts.

    Example:
        >>> checked_texts("texts", ("a", "b"), 2)
        ['a', 'b']
    """
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{name} must be a sequence of texts, got {type(texts).__name__}.")
    if len(texts) < least:
        raise InputError(f"{name} must hold at least {least} texts, got {len(texts)}. Give more.")
    return list(texts)
