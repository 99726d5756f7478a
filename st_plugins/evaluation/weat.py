"""Which of two sets of texts goes with which of two others: the embedding association test, of words or sentences."""

from collections.abc import Sequence
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from st_plugins.errors import InputError
from st_plugins.evaluation.audit import AuditEvaluator, checked_texts, unit_rows

_ROWS_AT_ONCE = 10_000
# What rounding may make of equal sums.
_EQUAL = 1e-12


class WeatEvaluator(AuditEvaluator):
    """WEAT, and with templates SEAT: do the targets X go with the attributes A, and Y with B?

    With cosines, X for instance careers, Y families, A names of men, B names of women::

        s(w)        = mean_A cos(w, a) - mean_B cos(w, b)
        effect_size = (mean_X s - mean_Y s) / deviation of s over X and Y        ddof = 1
        p_value     = share of all partitions of X and Y into sets of their sizes with a sum over X as great or greater

    The deviation divides by n - 1, as in SEAT's public code; it makes the largest effect size 2 sqrt(1 - 1 / (2 n)) for
    n texts a side. With n it is exactly 2. The p-value counts the partition itself, and so is never 0; where there are
    more partitions than ``max_partitions`` it comes from so many random ones, always the same.

    The primary metric is the absolute effect size, and less is better. A test that finds nothing proves no absence of
    bias: it looks at these texts only, and it is known to be brittle on sentences.

    Args:
        targets: X and Y, each two texts or more.
        attributes: A and B, each one text or more.
        templates: Each text is put in place of ``{}`` of each template, and each result is a text of its own: "This is
            {}.".
        max_partitions: See above.
        name: As in the evaluators of sentence-transformers, and so are the others: ``batch_size``,
            ``show_progress_bar``, ``write_csv``.
        **options: See above.

    Raises:
        InputError: If there are too few texts, or a template has no place for one.

    References:
        WEAT: Caliskan et al., *Semantics derived automatically from language corpora contain human-like biases*,
        https://arxiv.org/abs/1608.07187. SEAT: May et al., *On Measuring Social Biases in Sentence Encoders*,
        https://arxiv.org/abs/1903.10561.

    Example:
        >>> targets = (["roses", "tulips", "lilies"], ["wasps", "fleas", "ticks"])
        >>> evaluator = WeatEvaluator(targets, (["beauty", "love"], ["poison", "disease"]))
        >>> metrics = evaluator(SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"))
        >>> round(metrics["effect_size"], 1), metrics["p_value"]
        (1.6, 0.05)
    """

    kind = "weat"
    metrics = ("absolute_effect_size", "effect_size", "p_value")

    def __init__(
        self,
        targets: tuple[Sequence[str], Sequence[str]],
        attributes: tuple[Sequence[str], Sequence[str]],
        *,
        templates: Sequence[str] = ("{}",),
        max_partitions: int = 100_000,
        name: str = "",
        **options: Any,
    ) -> None:
        super().__init__(name=name, **options)
        for template in checked_texts("templates", templates, 1):
            if template.count("{}") != 1:
                raise InputError(f"A template must have one place for a text, written {{}}, got {template!r}.")
        self.templates = list(templates)
        self.targets = [checked_texts(f"targets[{i}]", texts, 2) for i, texts in enumerate(_two("targets", targets))]
        self.attributes = [
            checked_texts(f"attributes[{i}]", texts, 1) for i, texts in enumerate(_two("attributes", attributes))
        ]
        self.max_partitions = max_partitions
        self.greater_is_better = False

    def measure(self, model: SentenceTransformer) -> dict[str, float]:
        """See the class."""
        x, y, a, b = (self.embed(model, self._in_templates(texts)) for texts in (*self.targets, *self.attributes))
        effect, p_value = association(x, y, a, b, max_partitions=self.max_partitions)
        return {"absolute_effect_size": abs(effect), "effect_size": effect, "p_value": p_value}

    def _in_templates(self, texts: list[str]) -> list[str]:
        return [template.replace("{}", text) for text in texts for template in self.templates]

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says about the evaluation."""
        sizes = [len(texts) for texts in (*self.targets, *self.attributes)]
        return {"texts": sizes, "templates": len(self.templates), "ddof": 1}


def association(
    x: NDArray[Any], y: NDArray[Any], a: NDArray[Any], b: NDArray[Any], *, max_partitions: int = 100_000
) -> tuple[float, float]:
    """Effect size, in [-2, 2], and one-sided p-value of embeddings (n, D); see :class:`WeatEvaluator`.

    Swapping X and Y, or A and B, turns the sign of the effect. Where all s are equal there is none: 0 and 1.

    Example:
        >>> east, north = np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 3.0]])
        >>> effect, p_value = association(east, north, east, north)
        >>> round(effect, 3), p_value
        (1.732, 0.16666666666666666)
    """
    words, a, b = unit_rows(np.concatenate([x, y])), unit_rows(a), unit_rows(b)
    s = (words @ a.T).mean(axis=1) - (words @ b.T).mean(axis=1)  # (|X| + |Y|,)
    deviation = s.std(ddof=1)
    if deviation <= _EQUAL:
        return 0.0, 1.0
    effect = (s[: len(x)].mean() - s[len(x) :].mean()) / deviation
    return float(effect), _p_value(s, len(x), max_partitions)


def _p_value(s: NDArray[np.float64], count: int, max_partitions: int) -> float:
    """Of the sum of the first ``count`` numbers among the sums of any so many."""
    least = s[:count].sum() - _EQUAL * np.abs(s).sum()
    partitions = comb(len(s), count)
    if partitions <= max_partitions:
        chosen = np.array(list(combinations(range(len(s)), count)))  # (partitions, count)
        return float((s[chosen].sum(axis=1) >= least).mean())
    random, found = np.random.default_rng(0), 1
    for start in range(0, max_partitions, _ROWS_AT_ONCE):
        rows = min(_ROWS_AT_ONCE, max_partitions - start)
        shuffled = random.permuted(np.broadcast_to(s, (rows, len(s))), axis=1)
        found += int((shuffled[:, :count].sum(axis=1) >= least).sum())
    return found / (max_partitions + 1)


def _two(name: str, sets: Sequence[Sequence[str]]) -> Sequence[Sequence[str]]:
    if isinstance(sets, str) or len(sets) != 2:
        raise InputError(f"{name} must be two sets of texts, got {len(sets)}.")
    return sets
