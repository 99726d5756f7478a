"""A contrastive loss with a queue of earlier batches as further negatives, embedded by a slow copy of the model."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_plugins.errors import LossError
from st_plugins.first_modules import unwrapped
from st_plugins.losses.candidates import candidate_cosines
from st_plugins.losses.citations import MOMENTUM_QUEUE
from st_plugins.losses.frozen_models import embed_frozen
from st_plugins.losses.layers import check_positive
from st_plugins.losses.stateful import StatefulLoss, of_all_devices
from st_plugins.width import embedding_width


class MomentumQueueLoss(StatefulLoss):
    """In-batch negatives, and those of earlier batches: the negatives of a large batch for the memory of a small one.

    With a_i the anchor and p_i the positive of row i, c every text of the batch but the anchors, q the texts of the
    queue and s the scale::

        loss = mean over i of -log( exp(s cos(a_i, p_i)) / (sum_c exp(s cos(a_i, c)) + sum_q exp(s cos(a_i, q))) )

    It is >= 0. The queue holds one column of the last batches, the newest ``queue_size`` texts, never of the batch at
    hand. A copy of the model embeds them, without dropout, which follows the model slowly so that vectors of different
    batches fit together. After every batch, W being all weights::

        W_copy = momentum W_copy + (1 - momentum) W

    The copy belongs to the loss: no gradient reaches it, and it is not saved with the model.

    Args:
        model: The model that is trained.
        queue_size: Texts in the queue, >= 0. In ESimCSE 2.5 times the batch; with 0 this is
            ``MultipleNegativesRankingLoss``. Keep it far below the number of texts, or a text meets itself as a
            negative.
        column: Which column is queued: 1, the positives, for queries and documents; in ESimCSE 0, where both columns
            are the same text.
        momentum: In [0, 1). Per batch: where gradients of k batches are accumulated, take its k-th root.
        scale: s, > 0; 1 / temperature.
        mini_batch_size: If given, gradients are cached (GradCache): memory is that of a batch of this many texts.
        gather_across_devices: Whether a batch is that of all devices together. The queue holds texts of all of them in
            any case.

    Attributes:
        queue: (texts so far, D), unit vectors, the newest batch first.
        momentum_model: The slow copy, a ``SentenceTransformer``.

    Inputs:
        +-------------------------------------------------+--------+
        | Columns                                         | Labels |
        +=================================================+========+
        | (anchor, positive, negative_1, ..., negative_N) | none   |
        +-------------------------------------------------+--------+

    Requirements:
        Memory for a second copy of the weights, and time for one more pass over one column. Weights in float32, in
        mixed precision or not, because steps of the copy are small; and whole on their device: wrappers that split them
        over machines (FSDP) are not supported. Resumed trainings:
        :class:`~st_plugins.training.LossStateCallback`. An evaluation of this loss leaves the queue out.

    Relations:
        ``CachedMultipleNegativesRankingLoss`` has exact, fresh negatives for two passes over a large batch; prefer it
        where that time is there. With :class:`~st_plugins.training.WordRepetitionCollator` this is ESimCSE, which
        learns from texts alone.

    Raises:
        LossError: If an option is out of range; in training as :class:`StatefulLoss`.

    References:
        Wu et al., *ESimCSE*, https://arxiv.org/abs/2109.04380; the queue is that of MoCo,
        https://arxiv.org/abs/1911.05722. Differs from the code of ESimCSE, which runs the head of the trained model on
        what the copy of its encoder gives: here the copy is of all modules.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> loss = MomentumQueueLoss(model, queue_size=4096)
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=pairs, loss=loss)
        >>> loss.queue.shape
        torch.Size([0, 384])
    """

    citation = MOMENTUM_QUEUE
    queue: Tensor

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        queue_size: int,
        column: int = 1,
        momentum: float = 0.995,
        scale: float = 20.0,
        mini_batch_size: int | None = None,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__(model, mini_batch_size=mini_batch_size, gather_across_devices=gather_across_devices)
        check_positive(scale=scale)
        for name, value in (("queue_size", queue_size), ("column", column)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise LossError(f"{name} must be an integer >= 0, got {value!r}.")
        if not 0 <= momentum < 1:
            raise LossError(f"momentum must be in [0, 1), got {momentum!r}. A copy with 1 would never learn.")
        self._has_seen_a_batch = queue_size > 0  # with a queue, a first batch of one may have nothing to compare
        self.queue_size = queue_size
        self.column = column
        self.momentum = momentum
        self.scale = scale
        self.momentum_model = copy.deepcopy(unwrapped(model)).requires_grad_(False).eval()
        parameter = next(model.parameters())
        width = embedding_width(unwrapped(model).children())
        self.register_buffer("queue", torch.zeros(0, width, device=parameter.device))

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Tensor:
        """The loss of one batch, a scalar; there are no ``labels``."""
        columns = [dict(features) for features in sentence_features]
        if not self.is_learning or self.queue_size == 0:
            return super().forward(columns, labels)
        if self.column >= len(columns):
            raise LossError(
                f"column must be one of the batch, from 0 to {len(columns) - 1}, got {self.column}. Set column=0 to "
                "queue the anchors."
            )
        self._follow()
        # Before the model, whose modules may write into the features.
        newest = embed_frozen(self.momentum_model, columns[self.column], self.mini_batch_size)
        loss = super().forward(columns, labels)
        self._enqueue(newest)
        return loss

    def compute_loss(self, columns: list[Tensor], labels: Tensor | None) -> Tensor:
        """See :class:`EmbeddingLoss`; the queue is left as it is."""
        scores = candidate_cosines(columns)  # (B, N)
        if self.is_learning:
            anchors = F.normalize(columns[0], dim=-1)
            scores = torch.cat([scores, anchors @ self.queue.to(scores.dtype).T], dim=1)  # (B, N + queued)
        return F.cross_entropy(self.scale * scores, torch.arange(len(scores), device=scores.device))

    def options(self) -> dict[str, Any]:
        """See :class:`EmbeddingLoss`."""
        return {
            "queue_size": self.queue_size,
            "column": self.column,
            "momentum": self.momentum,
            "scale": self.scale,
        }

    @torch.no_grad()
    def _follow(self) -> None:
        """One step of the copy towards the model; what is no weight, such as running means, is taken over."""
        model = unwrapped(self.model)
        for slow, fast in zip(self.momentum_model.parameters(), model.parameters(), strict=True):
            slow.lerp_(fast.detach().to(slow.dtype), 1 - self.momentum)
        for slow, fast in zip(self.momentum_model.buffers(), model.buffers(), strict=True):
            slow.copy_(fast)

    def _enqueue(self, newest: Tensor) -> None:
        rows = F.normalize(of_all_devices(newest).to(self.queue.dtype), dim=-1)
        self.queue = torch.cat([rows, self.queue])[: self.queue_size]
