"""How many dimensions embeddings use: RankMe, without labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from st_plugins.evaluation.audit import AuditEvaluator, checked_texts

_EPSILON = 1e-7


class RankMeEvaluator(AuditEvaluator):
    """RankMe: the effective rank of the embeddings of some thousand texts.

    See :func:`effective_rank`. A space that collapsed to a few directions has a low rank, and does poorly on every
    task. Compare steps, layers or sizes of one training on the same texts, and nothing else: models that were trained
    otherwise, other texts and other numbers of texts have ranks of their own. Where there are about as many texts as
    coordinates, the texts limit the rank; take ten times as many. It is measured on what the model gives, without
    centering: behind a ``Normalize`` on unit vectors. A mean that all embeddings share lowers it.

    ``ElasticGridEvaluator(RankMeEvaluator(texts))`` tells the rank of every layer and dim.

    Args:
        texts: n texts, two or more; no labels.
        name: As in the evaluators of sentence-transformers, and so are the others: ``batch_size``,
            ``show_progress_bar``, ``write_csv``.
        **options: See above.

    Raises:
        InputError: If there are fewer than two texts.

    References:
        Garrido et al., *RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by
        Their Rank*, https://arxiv.org/abs/2210.02885, equation (1).

    Example:
        >>> evaluator = RankMeEvaluator(["a cat", "a dog", "rain", "snow"])
        >>> metrics = evaluator(SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"))
        >>> 1 < metrics[evaluator.primary_metric] <= 4
        True
    """

    kind = "rankme"
    metrics = ("rankme",)

    def __init__(self, texts: Sequence[str], *, name: str = "", **options: Any) -> None:
        super().__init__(name=name, **options)
        self.texts = checked_texts("texts", texts, 2)
        self.greater_is_better = True

    def measure(self, model: SentenceTransformer) -> dict[str, float]:
        """The rank, between 1 and the embedding dimension."""
        return {"rankme": effective_rank(self.embed(model, self.texts))}

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says about the evaluation."""
        return {"texts": len(self.texts)}


def effective_rank(embeddings: NDArray[Any]) -> float:
    """RankMe of embeddings (n, D): the exponential of the entropy of their singular values.

    With s_1 ... s_K the singular values, K = min(n, D)::

        p_k = s_k / (s_1 + ... + s_K) + 1e-7        RankMe = exp(- sum_k p_k ln p_k)

    It is 1 where all embeddings point one way, and D where they point to all sides alike, both but for the 1e-7.
    Lengthening all of them alike changes nothing, nor does turning the space. Zeros have no rank: NaN.

    Example:
        >>> round(effective_rank(np.diag([3.0, 1.0])), 4), round(effective_rank(np.eye(32)), 3)
        (1.7548, 32.0)
    """
    values = np.linalg.svd(np.asarray(embeddings, dtype=np.float64), compute_uv=False)
    total = values.sum()
    if total == 0:
        return float("nan")
    shares = values / total + _EPSILON
    return float(np.exp(-(shares * np.log(shares)).sum()))
