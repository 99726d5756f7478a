"""How deep texts lie inside a corpus, and whether two corpora are alike: transformer-based text embedding depth."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ranksums
from sentence_transformers import SentenceTransformer

from st_plugins.errors import InputError, ShapeError
from st_plugins.evaluation.audit import AuditEvaluator, checked_texts, unit_rows


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
        name: As in the evaluators of sentence-transformers, and so are the others: ``batch_size``,
            ``show_progress_bar``, ``write_csv``.
        **options: See above.

    Raises:
        InputError: If there are too few texts.

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

    def __init__(self, reference: Sequence[str], texts: Sequence[str], *, name: str = "", **options: Any) -> None:
        super().__init__(name=name, **options)
        self.reference = checked_texts("reference", reference, 2)
        self.texts = checked_texts("texts", texts, 1)
        self.greater_is_better = True

    def measure(self, model: SentenceTransformer) -> dict[str, float]:
        """See the class."""
        reference, others = self.embed(model, self.reference), self.embed(model, self.texts)
        return compare_depths(tte_depths(reference), tte_depths(others, reference))

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says about the evaluation."""
        return {"reference": len(self.reference), "texts": len(self.texts)}


def tte_depths(embeddings: NDArray[Any], reference: NDArray[Any] | None = None) -> NDArray[np.float64]:
    """Depths (n,) of embeddings (n, D) in a reference F (m, D), or in their own corpus.

    With x and h at unit length, E the mean over F, without x itself where it belongs to it::

        D(x) = 2 - E_h [1 - cos(x, h)] = 1 + x . E_h [h]        in [0, 2]

    2 where all of F points where x points, 1 where x is orthogonal to all, 0 where all are opposite. The deepest text
    is a corpus' most typical one. It takes one sum over F, so n + m products and not n m.

    Args:
        embeddings: (n, D), of any length.
        reference: (m, D); None for the embeddings themselves, each without itself.

    Raises:
        ShapeError: If the widths differ.
        InputError: If the reference holds nothing, or a corpus in itself one text only.

    Example:
        >>> tte_depths(np.eye(3)), tte_depths(np.array([[2.0, 0.0]]), np.array([[1.0, 0.0], [-1.0, 0.0], [5.0, 0.0]]))
        (array([1., 1., 1.]), array([1.33333333]))
    """
    units = unit_rows(embeddings)
    if reference is None:
        if len(units) < 2:
            raise InputError(f"A depth in a corpus of its own needs at least two texts, got {len(units)}.")
        itself = np.einsum("nd,nd->n", units, units)  # 1, or 0 for zeros
        return 1 + (units @ units.sum(axis=0) - itself) / (len(units) - 1)
    others = unit_rows(reference)
    if units.ndim != 2 or others.ndim != 2 or units.shape[1] != others.shape[1]:
        raise ShapeError(
            f"Embeddings and reference must be of one width, got {units.shape} and {others.shape}. "
            "Embed both with one model."
        )
    if not len(others):
        raise InputError("The reference must hold at least one text, got none.")
    return 1 + units @ others.mean(axis=0)


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
