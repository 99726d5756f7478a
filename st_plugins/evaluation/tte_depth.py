"""How deep texts lie inside a corpus, and whether two corpora are alike: transformer-based text embedding depth."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import ranksums
from sentence_transformers import SentenceTransformer

from st_plugins.errors import InputError, ShapeError
from st_plugins.evaluation.audit import AuditEvaluator, checked_texts, unit_rows

Distance = Literal["cosine", "chord"]
_ROWS_AT_ONCE = 1024


class TteDepthEvaluator(AuditEvaluator):
    """Whether texts lie as deep in a reference corpus as its own texts do: two samples, no labels.

    With D the :func:`tte_depths` in the reference F, x texts of F and y the other texts, G::

        q        = P(D(x) <= D(y)), ties by half                     in [0, 1]; 1/2 where both are alike
        pooled_q = mean over y of the share of all depths below D(y)       what the authors' code calls Q
        p_value  of Wilcoxon's rank-sum test, against "the texts of F lie deeper"

    A q near 0 says that G lies outside: generated texts beside human ones, queries of today beside those an exit policy
    was calibrated on. It compares depths, so it sees outliers and does not see a corpus that moved around inside of F.
    ``pooled_q`` lies between about 1/4 and 3/4: for equal numbers n without ties it is ``q / 2 + 1/4 - 1 / (4 n)``.

    It is an audit of corpora, as a model sees them. As an aim of training it would pull the corpora together.

    Args:
        reference: F, two texts or more.
        texts: G, one text or more.
        distance: ``"cosine"`` or ``"chord"``, see :func:`tte_depths`.
        name: As in the evaluators of sentence-transformers, and so are the others: ``batch_size``,
            ``show_progress_bar``, ``write_csv``.
        **options: See above.

    Raises:
        InputError: If there are too few texts, or the distance is another word.

    References:
        Seegmiller and Preum, *Statistical Depth for Ranking and Characterizing Transformer-Based Text Embeddings*,
        EMNLP 2023, https://arxiv.org/abs/2310.15010. Q is that of Liu and Singh (1993). Where F and G have equal
        numbers of texts, the authors' code takes the distances of F's texts for the depths of G; here they are G's.

    Example:
        >>> evaluator = TteDepthEvaluator(["a cat", "a dog", "a horse", "a cow"], ["a sheep", "income tax"])
        >>> metrics = evaluator(SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"))
        >>> metrics[evaluator.primary_metric]
        0.375
    """

    kind = "tte_depth"
    metrics = ("q", "pooled_q", "p_value")

    def __init__(
        self,
        reference: Sequence[str],
        texts: Sequence[str],
        *,
        distance: Distance = "cosine",
        name: str = "",
        **options: Any,
    ) -> None:
        super().__init__(name=name, **options)
        self.distance: Distance = _checked_distance(distance)
        self.reference = checked_texts("reference", reference, 2)
        self.texts = checked_texts("texts", texts, 1)
        self.greater_is_better = True

    def measure(self, model: SentenceTransformer) -> dict[str, float]:
        """See the class."""
        reference, others = self.embed(model, self.reference), self.embed(model, self.texts)
        own = tte_depths(reference, distance=self.distance)
        return compare_depths(own, tte_depths(others, reference, distance=self.distance))

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says about the evaluation."""
        return {"reference": len(self.reference), "texts": len(self.texts), "distance": self.distance}


def tte_depths(
    embeddings: NDArray[Any], reference: NDArray[Any] | None = None, *, distance: Distance = "cosine"
) -> NDArray[np.float64]:
    """Depths (n,) of embeddings (n, D) in a reference F (m, D), or in their own corpus.

    With x and h at unit length, E the mean over F, without x itself where it belongs to it::

        D(x) = 2 - E_h [distance(x, h)]                  in [0, 2]

        "cosine":  1 - cos(x, h)                         D(x) = 1 + x . E_h [h]
        "chord":   |x - h| = sqrt(2 - 2 cos(x, h))

    2 where all of F points where x points, 0 where all are opposite; where x is orthogonal to all, 1 by cosines and
    2 - sqrt(2) by chords. The deepest text is a corpus' most typical one. By cosines it takes one sum over F, so n + m
    products; by chords n m of them.

    Args:
        embeddings: (n, D), of any length.
        reference: (m, D); None for the embeddings themselves, each without itself.
        distance: See above.

    Raises:
        ShapeError: If the widths differ.
        InputError: If the reference holds nothing, a corpus in itself one text only, or the distance is another word.

    Example:
        >>> tte_depths(np.eye(3)), tte_depths(np.array([[2.0, 0.0]]), np.array([[1.0, 0.0], [-1.0, 0.0], [5.0, 0.0]]))
        (array([1., 1., 1.]), array([1.33333333]))
    """
    _checked_distance(distance)
    units = unit_rows(embeddings)
    others = units if reference is None else unit_rows(reference)
    if units.ndim != 2 or others.ndim != 2 or units.shape[1] != others.shape[1]:
        raise ShapeError(
            f"Embeddings and reference must be of one width, got {units.shape} and {others.shape}. "
            "Embed both with one model."
        )
    count = len(others) - (reference is None)
    if count < 1:
        least = "A corpus must hold two texts" if reference is None else "The reference must hold one text"
        raise InputError(f"{least} or more for depths in it, got {len(others)}.")
    if distance == "chord":
        starts = range(0, len(units), _ROWS_AT_ONCE)
        sums = [cdist(units[start : start + _ROWS_AT_ONCE], others).sum(axis=1) for start in starts]
        return 2 - np.concatenate([np.empty(0), *sums]) / count
    itself = np.einsum("nd,nd->n", units, units) if reference is None else 0.0  # 1, or 0 for zeros
    return 1 + (units @ others.sum(axis=0) - itself) / count


def _checked_distance(distance: Distance) -> Distance:
    if distance not in ("cosine", "chord"):
        raise InputError(f'distance must be "cosine" or "chord", got {distance!r}.')
    return distance


def compare_depths(reference: NDArray[Any], others: NDArray[Any]) -> dict[str, float]:
    """``q``, ``pooled_q`` and ``p_value`` of depths (m,) of a corpus in itself and depths (n,) of other texts in it.

    See :class:`TteDepthEvaluator`.

    Example:
        >>> metrics = compare_depths(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
        >>> metrics["q"], metrics["pooled_q"]
        (1.0, 0.625)
    """
    ordered = np.sort(reference)
    below, at_most = (np.searchsorted(ordered, others, side=side) for side in ("left", "right"))
    pooled = np.concatenate([reference, others])
    strictly_below = np.searchsorted(np.sort(pooled), others, side="left")
    return {
        "q": float((below + at_most).mean() / (2 * len(reference))),
        "pooled_q": float(strictly_below.mean() / len(pooled)),
        "p_value": float(ranksums(reference, others, alternative="greater").pvalue),
    }
