"""One ranking from two: scores of dense and of sparse vectors, brought to one scale and added. Searches nothing."""

import math
from collections.abc import Mapping

from st_plugins.errors import InputError


def fuse_scores(dense: Mapping[str, float], sparse: Mapping[str, float], *, alpha: float = 0.5) -> dict[str, float]:
    """The documents of two result lists of one query, best first, by the weighted mean of their scores.

    Each list is brought to [0, 1] by itself, with its own least and greatest score::

        n(s)  = (s - min) / (max - min), or 1 where all scores of the list are equal
        fused = alpha n(dense) + (1 - alpha) n(sparse), where a list that lacks the document counts as 0

    A list without any document has no say: the other one alone decides. Equal scores keep the order of the dense list,
    then that of the sparse one.

    Args:
        dense: Score by document, greater is better; some hundred of the best ones.
        sparse: The same of the other search.
        alpha: Weight of the dense list, in [0, 1].

    Returns:
        dict: Fused score by document, in [0, 1], best first.

    Raises:
        InputError: If alpha is outside, or a score is NaN or infinite.

    References:
        Zhuang et al., *PromptReps*, https://arxiv.org/abs/2404.18424. In its public code a list of one hit counts as 0,
        as if it had not been found; here as 1.

    Example:
        >>> fuse_scores({"a": 0.9, "b": 0.8, "c": 0.5}, {"b": 120.0, "d": 20.0})
        {'b': 0.875, 'a': 0.5, 'c': 0.0, 'd': 0.0}
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha must be from 0 (sparse alone) to 1 (dense alone), got {alpha!r}.")
    alpha = alpha if dense and sparse else float(bool(dense))
    parts = ((alpha, _normalized(dense)), (1 - alpha, _normalized(sparse)))
    fused = {
        document: sum(weight * scores.get(document, 0.0) for weight, scores in parts)
        for document in {**dense, **sparse}
    }
    return dict(sorted(fused.items(), key=lambda item: -item[1]))


def _normalized(scores: Mapping[str, float]) -> dict[str, float]:
    if not scores:
        return {}
    unknown = [document for document, score in scores.items() if not math.isfinite(score)]
    if unknown:
        raise InputError(f"Scores must be finite numbers, got {scores[unknown[0]]!r} for {unknown[0]!r}. Leave it out.")
    least, greatest = min(scores.values()), max(scores.values())
    if least == greatest:
        return dict.fromkeys(scores, 1.0)
    return {document: (score - least) / (greatest - least) for document, score in scores.items()}
