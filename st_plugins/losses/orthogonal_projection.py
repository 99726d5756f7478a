"""Classes at right angles: texts of one class together, different classes with nothing in common."""

from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_plugins.errors import LossError
from st_plugins.losses.batch_checks import check_classes
from st_plugins.losses.citations import ORTHOGONAL_PROJECTION
from st_plugins.losses.embedding_loss import EmbeddingLoss
from st_plugins.losses.layers import check_weights


class OrthogonalProjectionLoss(EmbeddingLoss):
    """One minus the mean cosine within classes, plus the size of the mean cosine between them (OPL).

    Over the pairs of different texts of a batch, with y the class of a text::

        loss = 1 - mean of cos(z_i, z_j) where y_i = y_j
               + negative_weight * | mean of cos(z_i, z_j) where y_i != y_j |

    It is in [0, 2 + negative_weight], and 0 where classes are points at right angles. Contrastive losses want cosines
    between classes as low as they get; here they shall be 0, on average. A mean over all pairs hides what single pairs
    do: a regularizer beside another loss rather than one to train with alone.

    Args:
        model: The model that is trained.
        negative_weight: gamma in the paper; >= 0.
        mini_batch_size: If given, gradients are cached, see :class:`~st_plugins.losses.ElasticLoss`.
        gather_across_devices: Whether the means are over the texts of all devices.

    Inputs:
        +------------------------------------------+-----------------------------+
        | Columns                                  | Labels                      |
        +==========================================+=============================+
        | text, or texts of one class              | number of the class         |
        +------------------------------------------+-----------------------------+
        | (anchor, positive), or more of one class | none: each row is a class   |
        +------------------------------------------+-----------------------------+

    Requirements:
        Batches with several texts of a class: ``batch_sampler=BatchSamplers.GROUP_BY_LABEL``. A batch without pairs of
        equal class, or without pairs of different class, has 0 for that part.

    Relations:
        ``GlobalOrthogonalRegularizationLoss`` of sentence-transformers wants cosines of unrelated texts to be spread as
        those of random vectors, and pulls nothing together. ``CosineSimilarityLoss`` is what the LoCo benchmark's code
        calls orthogonal projection.

    Raises:
        LossError: If the weight is out of range, or a batch has neither labels nor two columns.

    References:
        Ranasinghe et al., *Orthogonal Projection Loss*, https://arxiv.org/abs/2103.14021. The authors' code takes the
        mean between classes without its absolute value, and so rewards classes on opposite sides.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> loss = OrthogonalProjectionLoss(model)
        >>> loss.compute_loss_from_embeddings([torch.eye(2), torch.eye(2)])
        tensor(0.)
    """

    citation = ORTHOGONAL_PROJECTION

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        negative_weight: float = 0.5,
        mini_batch_size: int | None = None,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__(model, mini_batch_size=mini_batch_size, gather_across_devices=gather_across_devices)
        check_weights(negative_weight=negative_weight)
        self.negative_weight = negative_weight

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None = None) -> Tensor:
        """The loss of embeddings that were computed before.

        Args:
            embeddings: One tensor (B, D) per column; the texts of a row are of one class.
            labels: (B,) classes, or None if every row is one.

        Returns:
            Tensor: A scalar, in single precision at least.
        """
        return self._value(embeddings, labels)

    def compute_loss(self, columns: list[Tensor], labels: Tensor | None) -> Tensor:
        """See :class:`EmbeddingLoss`."""
        rows = len(columns[0])
        if labels is None and len(columns) == 1:
            raise LossError(
                "OrthogonalProjectionLoss must have labels, or rows of two texts or more of one class, got one text a "
                "row and no labels. Add a column named label with the numbers of the classes."
            )
        classes = (
            torch.arange(rows, device=columns[0].device)
            if labels is None
            else check_classes("OrthogonalProjectionLoss", labels, rows)
        ).repeat(len(columns))  # (N,)
        unit = F.normalize(torch.cat(columns), dim=-1)  # (N, D)
        cosines = unit @ unit.T  # (N, N)
        same = classes[:, None] == classes
        others = ~torch.eye(len(classes), dtype=torch.bool, device=classes.device)
        within, between = cosines[same & others], cosines[~same]
        value = 1 - within.mean() if len(within) else 0 * cosines.sum()
        return value + self.negative_weight * between.mean().abs() if len(between) else value

    def options(self) -> dict[str, Any]:
        """See :class:`EmbeddingLoss`."""
        return {"negative_weight": self.negative_weight}
