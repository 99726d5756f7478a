"""A softmax over the negatives each row brings along. Other rows of the batch are never negatives."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from st_plugins.errors import LossError
from st_plugins.losses.citations import NV_EMBED
from st_plugins.losses.layers import precisely


class GivenNegativesLoss(nn.Module):
    """Cross entropy of the positive among itself and the row's own negatives: contrastive, without in-batch negatives.

    With a the anchor, c_0 the positive and c_1 ... c_N the negatives of the same row, s the scale::

        loss = mean over rows of -log( exp(s cos(a, c_0)) / sum_j exp(s cos(a, c_j)) )

    It is >= 0, and log(1 + N) where all cosines are equal. For data in which two rows may well mean the same, as those
    of one class do: what is the positive of one row would be a false negative of the other.

    Args:
        model: The model that is trained.
        scale: s, > 0; 1 / temperature.

    Inputs:
        +-------------------------------------------------+--------+
        | Columns                                         | Labels |
        +=================================================+========+
        | (anchor, positive, negative_1, ..., negative_N) | none   |
        +-------------------------------------------------+--------+

    Relations:
        ``MultipleNegativesRankingLoss`` of sentence-transformers adds the candidates of all other rows to the sum; on a
        batch of one row both are the same. There is no cached form: rows do not meet, so
        ``gradient_accumulation_steps`` gives the gradient of a large batch exactly.

    Raises:
        LossError: If the scale is not positive, or there are no negatives.

    References:
        Lee et al., *NV-Embed*, https://arxiv.org/abs/2405.17428: in-batch negatives are off in the second stage. The
        temperature there is not known to us; 1 / 20 is the default of sentence-transformers.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> anchor, near, far = torch.tensor([[[1.0, 0.0]], [[2.0, 0.0]], [[0.0, 1.0]]])
        >>> GivenNegativesLoss(model, scale=1.0).compute_loss_from_embeddings([anchor, near, far])
        tensor(0.3133)
    """

    citation = NV_EMBED

    def __init__(self, model: SentenceTransformer, *, scale: float = 20.0) -> None:
        super().__init__()
        if not scale > 0:
            raise LossError(f"scale must be positive, got {scale!r}. It is 1 / temperature; 20 is usual.")
        self.model = model
        self.scale = scale

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Tensor:
        """The loss of one batch, a scalar; there are no ``labels``."""
        return self.compute_loss_from_embeddings(
            [self.model(column)["sentence_embedding"] for column in sentence_features]
        )

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None = None) -> Tensor:
        """The loss of embeddings that were computed before.

        Args:
            embeddings: One tensor (B, D) per column: anchors, positives, then at least one of negatives.
            labels: None.

        Returns:
            Tensor: A scalar, in single precision at least.
        """
        if len(embeddings) < 3:
            raise LossError(
                f"GivenNegativesLoss must have columns (anchor, positive, negative, ...), got {len(embeddings)}. "
                "Mine negatives with sentence_transformers.util.mine_hard_negatives, or take "
                "MultipleNegativesRankingLoss, which needs none."
            )
        return precisely(self._cross_entropy, embeddings)

    def _cross_entropy(self, embeddings: list[Tensor]) -> Tensor:
        anchors, *columns = embeddings
        candidates = torch.stack(columns, dim=1)  # (B, 1 + N, D)
        scores = self.scale * F.cosine_similarity(anchors[:, None], candidates, dim=-1)  # (B, 1 + N)
        return F.cross_entropy(scores, scores.new_zeros(len(scores), dtype=torch.long))

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says about the training."""
        return {"scale": self.scale}
