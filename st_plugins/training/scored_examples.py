"""Keeps the examples whose scores say what an example should: positives high, negatives low, and apart."""

import math
from collections.abc import Sequence
from typing import Any

from st_plugins.errors import LossError


def keep_scored(
    dataset: Any,
    *,
    scores: str | tuple[str, str] = "scores",
    min_pos: float | None = None,
    max_neg: float | None = None,
    min_gap: float | None = None,
) -> Any:
    """The rows whose positive scores at least ``min_pos``, every negative at most ``max_neg``, and ``min_gap`` apart.

    Scores may be of any kind: ratings by a language model, by a cross-encoder, or the cosines that
    ``sentence_transformers.util.mine_hard_negatives(..., output_scores=True)`` writes. It filters rows; nothing is
    scored here, and no text is changed. The columns of scores stay: remove them before training, or the trainer takes
    one called ``scores`` for labels.

    Args:
        dataset: A ``datasets.Dataset``.
        scores: One column of lists [positive, negative, ...], as mining writes it; or two columns, of the positive's
            score and of the negative's, the latter a number or a list of them.
        min_pos: Inclusive; None for no bound.
        max_neg: Inclusive; None for no bound.
        min_gap: The least that the positive is above each negative, inclusive; None for no bound.

    Returns:
        datasets.Dataset: Its rows in the same order.

    Raises:
        LossError: If no bound is given, a column is missing, or a score is no finite number.

    References:
        Wang et al., *Large Language Models can Contrastively Refine their Generation* (MultiCSR),
        https://arxiv.org/abs/2310.10962: ratings from 0 to 5, ``min_pos=3, max_neg=3, min_gap=1``. Its third stage,
        masking false negatives by a frozen model, is ``GISTEmbedLoss`` of sentence-transformers; the authors' code
        multiplies their logits by 0 there, which leaves e^0 in the sum.

    Example:
        >>> from datasets import Dataset
        >>> rated = Dataset.from_dict({"anchor": ["a", "b", "c"], "good": [5, 4, 2], "bad": [1, 4, 0]})
        >>> keep_scored(rated, scores=("good", "bad"), min_pos=3, max_neg=3, min_gap=1)["anchor"][:]
        ['a']
    """
    if min_pos is None and max_neg is None and min_gap is None:
        raise LossError("There must be at least one bound, got none. Set min_pos, max_neg or min_gap.")
    columns = [scores] if isinstance(scores, str) else list(scores)
    missing = [column for column in columns if column not in dataset.column_names]
    if missing or len(columns) > 2:
        raise LossError(
            f"scores must be one column of the dataset, or two, got {scores!r} for {dataset.column_names}. "
            "Mine with output_scores=True, or name the columns: scores=(of the positive, of the negative)."
        )
    rows = zip(*(dataset[column] for column in columns), strict=True)
    kept = []
    for index, row in enumerate(rows):
        positive, *negatives = [number for value in row for number in _numbers(value, index)]
        if not negatives:
            raise LossError(f"Every row must have scores of a positive and a negative, row {index} has {row}.")
        is_kept = (
            (min_pos is None or positive >= min_pos)
            and (max_neg is None or max(negatives) <= max_neg)
            and (min_gap is None or positive - max(negatives) >= min_gap)
        )
        if is_kept:
            kept.append(index)
    return dataset.select(kept)


def _numbers(value: Any, row: int) -> Sequence[float]:
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    for each in values:
        if isinstance(each, bool) or not isinstance(each, (int, float)) or not math.isfinite(each):
            raise LossError(f"Scores must be finite numbers, row {row} has {each!r}. Leave out rows without a score.")
    return values
