"""How much of the space around texts that a model was trained on is used by others: distances to the nearest one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from st_plugins.evaluation.audit import AuditEvaluator, checked_texts, unit_rows

_ROWS_AT_ONCE = 1024


class UtilizationEvaluator(AuditEvaluator):
    """Mean distance from a text to the nearest training text, between unit vectors.

    See :func:`nearest_distance`. Small numbers say that the texts a model will be asked about lie where it was trained,
    large ones that it was trained somewhere else. Losses that mix examples (Metrix) lower it. A space that collapsed to
    a point has the best utilization of all, so look at quality, or at :class:`RankMeEvaluator`, beside it.

    Args:
        train_texts: n texts of the training, one or more.
        texts: m other texts, one or more.
        name: As in the evaluators of sentence-transformers, and so are the others: ``batch_size``,
            ``show_progress_bar``, ``write_csv``.
        **options: See above.

    Raises:
        InputError: If there is no text.

    References:
        Venkataramanan et al., *It Takes Two to Tango: Mixup for Deep Metric Learning* (Metrix),
        https://arxiv.org/abs/2106.04990.

    Example:
        >>> evaluator = UtilizationEvaluator(["a cat", "income tax"], ["a cat"])
        >>> metrics = evaluator(SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"))
        >>> round(metrics[evaluator.primary_metric], 3)
        0.0
    """

    kind = "utilization"
    metrics = ("utilization",)

    def __init__(self, train_texts: Sequence[str], texts: Sequence[str], *, name: str = "", **options: Any) -> None:
        super().__init__(name=name, **options)
        self.train_texts = checked_texts("train_texts", train_texts, 1)
        self.texts = checked_texts("texts", texts, 1)
        self.greater_is_better = False

    def measure(self, model: SentenceTransformer) -> dict[str, float]:
        """The distance, in [0, 2]."""
        return {"utilization": nearest_distance(self.embed(model, self.texts), self.embed(model, self.train_texts))}

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says about the evaluation."""
        return {"train_texts": len(self.train_texts), "texts": len(self.texts)}


def nearest_distance(embeddings: NDArray[Any], training: NDArray[Any]) -> float:
    """Mean over embeddings (m, D) of the least Euclidean distance to training embeddings (n, D), all at unit length.

    ``mean_i min_j || x_i - t_j ||``, in [0, 2].

    Example:
        >>> nearest_distance(np.array([[0.0, 3.0]]), np.array([[1.0, 0.0], [0.0, -1.0]])) == 2**0.5
        True
    """
    units, others = unit_rows(embeddings), unit_rows(training)
    nearest = [
        others[(units[start : start + _ROWS_AT_ONCE] @ others.T).argmax(axis=1)]
        for start in range(0, len(units), _ROWS_AT_ONCE)
    ]
    # From the vectors, not from the cosine: the root of 2 - 2 cos loses half of the digits of small distances.
    return float(np.linalg.norm(units - np.concatenate(nearest), axis=1).mean())
