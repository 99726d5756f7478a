"""How far texts lie along a bias: direct bias, and how much of a similarity is bias (Bolukbasi)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from st_plugins.errors import InputError
from st_plugins.evaluation.audit import AuditEvaluator, checked_texts, unit_rows
from st_plugins.modules import DebiasProjection

# More than is left of a unit vector without its parts, or of the cosine of orthogonal ones.
_ROUNDING = 1e-12


class DirectBiasEvaluator(AuditEvaluator):
    """Direct bias: how far texts that should be neutral lie along the directions in which sets of texts differ.

    With w the texts at unit length and G (k, D) the directions of
    :meth:`~st_plugins.modules.DebiasProjection.from_sets`, which for k = 1 is |cos(w, g)| to a power::

        direct_bias = mean over texts of |G w|^strictness                    in [0, 1]

    0 where no text has a part in the directions, which are those of the model that is measured: behind a
    ``DebiasProjection`` they are what the sets still differ in. It sees what lies along them only, and is no proof of
    fairness, see there.

    Args:
        texts: That should be neutral, one or more.
        sets: Each of two texts or more that differ in nothing but the bias: ("he", "she"), ("father", "mother").
        num_directions: k.
        strictness: >= 0. At 0 any part in the directions counts as 1, the greater it is the less count small ones.
        name: As in the evaluators of sentence-transformers, and so are the others: ``batch_size``,
            ``show_progress_bar``, ``write_csv``.
        **options: See above.

    Raises:
        InputError: If there are too few texts, or the strictness is negative.
        SizeError: In use, if the sets do not differ in so many directions.

    References:
        Bolukbasi et al., *Man is to Computer Programmer as Woman is to Homemaker? Debiasing Word Embeddings*,
        https://arxiv.org/abs/1607.06520. Several directions at once, and sentences, are not in the paper.

    Example:
        >>> evaluator = DirectBiasEvaluator(["doctor", "nurse"], [("he", "she"), ("a father", "a mother")])
        >>> 0 < evaluator(SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"))["direct_bias"] < 1
        True
    """

    kind = "direct_bias"
    metrics = ("direct_bias",)

    def __init__(
        self,
        texts: Sequence[str],
        sets: Sequence[Sequence[str]],
        *,
        num_directions: int = 1,
        strictness: float = 1.0,
        name: str = "",
        **options: Any,
    ) -> None:
        super().__init__(name=name, **options)
        self.texts = checked_texts("texts", texts, 1)
        self.sets = [checked_texts(f"sets[{index}]", members, 2) for index, members in enumerate(sets)]
        if not self.sets:
            raise InputError("sets must hold at least one set of texts, got none. Give pairs that differ in the bias.")
        if not 0 <= strictness < float("inf"):
            raise InputError(f"strictness must be a number >= 0, got {strictness!r}.")
        self.num_directions = num_directions
        self.strictness = strictness
        self.greater_is_better = False

    def measure(self, model: SentenceTransformer) -> dict[str, float]:
        """See the class."""
        members = [torch.from_numpy(self.embed(model, texts)) for texts in self.sets]
        directions = DebiasProjection.from_sets(members, self.num_directions).directions.numpy()
        return {"direct_bias": mean_part(self.embed(model, self.texts), directions, strictness=self.strictness)}

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says about the evaluation."""
        return {
            "texts": len(self.texts),
            "sets": len(self.sets),
            "num_directions": self.num_directions,
            "strictness": self.strictness,
        }


def mean_part(embeddings: NDArray[Any], directions: NDArray[Any], *, strictness: float = 1.0) -> float:
    """The direct bias of embeddings (n, D), of any length, along orthonormal directions (k, D).

    See :class:`DirectBiasEvaluator`. No part at all counts as 0, also at strictness 0.

    Example:
        >>> mean_part(np.array([[3.0, 4.0], [0.0, 2.0]]), np.array([[1.0, 0.0]]))
        0.3
    """
    parts = np.linalg.norm(unit_rows(embeddings) @ np.asarray(directions, dtype=np.float64).T, axis=1)  # (n,)
    return float(np.where(parts > _ROUNDING, parts**strictness, 0.0).mean())


def indirect_bias(first: NDArray[Any], second: NDArray[Any], directions: NDArray[Any]) -> NDArray[np.float64]:
    """How much of the similarity of pairs (n, D) and (n, D) is their part in orthonormal directions (k, D).

    With w and v at unit length, and without their parts in the directions::

        beta(w, v) = (w . v - cos(w_rest, v_rest)) / (w . v)

    0 where taking out the directions leaves the cosine as it is, 1 where the rest has none, below 0 where the rest is
    more alike. Texts at right angles have no value (NaN); a text in the directions alone has a rest at right angles to
    all.

    Args:
        first: One text of each pair.
        second: The other one.
        directions: For instance ``DebiasProjection.from_sets(...).directions``.

    Returns:
        ndarray: (n,).

    References:
        As :class:`DirectBiasEvaluator`.

    Example:
        >>> indirect_bias(np.array([[0.6, 0.8, 0.0]]), np.array([[0.6, 0.0, 0.8]]), np.array([[1.0, 0.0, 0.0]]))
        array([1.])
    """
    directions = np.asarray(directions, dtype=np.float64)
    w, v = unit_rows(first), unit_rows(second)
    rests = [unit_rows(_nothing_of_rounding(x - (x @ directions.T) @ directions)) for x in (w, v)]
    cosines = np.einsum("nd,nd->n", w, v)
    left = np.einsum("nd,nd->n", *rests)
    return np.divide(cosines - left, cosines, out=np.full(len(w), np.nan), where=np.abs(cosines) > _ROUNDING)


def _nothing_of_rounding(rests: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.linalg.norm(rests, axis=1, keepdims=True) > _ROUNDING, rests, 0.0)
