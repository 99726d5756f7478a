"""How close the vectors of a graph are to those they should be, and whether that is close enough."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from st_plugins.errors import ParityError
from st_plugins_export.extras import require
from st_plugins_export.precisions import FULL, Precision
from st_plugins_export.rounded_graphs import UNROUNDED
from st_plugins_export.sessions import EXIT_OUTPUT, OUTPUT

_EMBEDDINGS = (OUTPUT, UNROUNDED, EXIT_OUTPUT)


class Closeness:
    """Collects, batch by batch, what one graph gives beside what torch gives.

    Args:
        file: Of the graph, for the messages.
        precision: Its bars.
        tolerance: Largest absolute difference that float32 may have.
    """

    def __init__(self, file: str, precision: Precision, tolerance: float) -> None:
        self._file, self._precision, self._tolerance = file, precision, tolerance
        self._cosines: list[np.ndarray] = []
        self._alone: dict[tuple[str, int], np.ndarray] = {}
        self.max_difference = 0.0
        self.alone_difference = 0.0

    def add(
        self, texts: Sequence[str], expected: np.ndarray, found: np.ndarray, places: Sequence[int] | None = None
    ) -> None:
        """One batch.

        Args:
            texts: B, prompts included.
            expected: (B, D).
            found: (B, D).
            places: Where each text left; only vectors from one place are compared alone and in a batch.

        Raises:
            ParityError: If a number is not finite, or float32 is too far off.
        """
        difference = float(np.abs(expected - found).max())
        allowed = self._tolerance if self._precision.name == FULL else np.inf
        if not difference <= allowed or not np.isfinite(difference):  # NaN fails as well
            raise ParityError(
                f"{self._file} must give the vectors of torch to within {allowed:.0e}, and is {difference:.1e} off in "
                f"a batch of {len(texts)} that starts with {texts[0][:60]!r}. Report this architecture, or raise the "
                "tolerance if you can live with the difference."
            )
        self.max_difference = max(self.max_difference, difference)
        self._cosines.append(cosines(expected, found))
        for key, row in zip(zip(texts, places or [0] * len(texts), strict=True), found, strict=True):
            if len(texts) == 1:
                self._alone[key] = row
            elif key in self._alone:
                self.alone_difference = max(self.alone_difference, _relative(row, self._alone[key]))

    @property
    def cosine_mean(self) -> float:
        """Over all texts so far."""
        return float(np.concatenate(self._cosines).mean())

    @property
    def cosine_min(self) -> float:
        """Of the text that came out worst."""
        return float(np.concatenate(self._cosines).min())

    def check(self) -> None:
        """Raise :class:`~st_plugins.errors.ParityError` if the graph misses a bar of its precision."""
        if self._precision.name == FULL:
            return  # every number has been compared
        bar, bar_of_one = self._precision.min_cosine, self._precision.min_cosine_of_one
        if not (self.cosine_mean >= bar and self.cosine_min >= bar_of_one):
            raise ParityError(
                f"{self._file} must give vectors whose cosine with those of torch is at least {bar:.5f} on average and "
                f"{bar_of_one:.4f} for each text; it is {self.cosine_mean:.5f} and {self.cosine_min:.4f}. Leave out "
                f"the precision {self._precision.name!r}, or lower its bar with min_cosine."
            )
        if not self.alone_difference <= self._precision.max_alone_difference:
            raise ParityError(
                f"{self._file} must give a text the same vector alone and in a batch, to within "
                f"{self._precision.max_alone_difference:.0e} of its length; they differ by "
                f"{self.alone_difference:.1e}. Leave out the precision {self._precision.name!r}."
            )


def cosines(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The cosine of each row (N, D) with its counterpart (N, D), in float64; two zero rows have 1.

    Example:
        >>> cosines(np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[1.0, 1.0], [0.0, 0.0]])).round(4).tolist()
        [0.7071, 1.0]
    """
    expected, found = expected.astype(np.float64), found.astype(np.float64)
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)  # (N,)
    products = (expected * found).sum(axis=1)
    both_zero = ~expected.any(axis=1) & ~found.any(axis=1)
    return np.where(both_zero, 1.0, products / np.where(lengths > 0, lengths, 1.0))


def run_graph(model: Any, batches: Iterable[Mapping[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray | None]:
    """Sentence embeddings (N, D) of all batches, or what is rounded to them, and where texts left (N,) if it says so.

    Args:
        model: ``onnx.ModelProto``.
        batches: Its inputs by name.
    """
    runtime = require("onnxruntime", extra="onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs() if output.name in _EMBEDDINGS]
    found = [
        np.concatenate(parts) for parts in zip(*(session.run(names, dict(batch)) for batch in batches), strict=True)
    ]
    return found[0], found[1] if len(found) > 1 else None


def _relative(row: np.ndarray, alone: np.ndarray) -> float:
    """The largest difference of a coordinate, as a part of the vector's length."""
    return float(np.abs(row - alone).max() / max(float(np.linalg.norm(alone)), 1e-12))
