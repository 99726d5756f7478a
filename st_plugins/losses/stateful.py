"""What losses share that remember something from batch to batch: it changes once per batch, cached gradients or not."""

from abc import ABC

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import all_gather
from torch import Tensor, distributed

from st_plugins.errors import LossError
from st_plugins.losses.embedding_loss import EmbeddingLoss


class StatefulLoss(EmbeddingLoss, ABC):
    """A loss with a memory. Not a loss by itself: a subclass brings the formula, and changes the memory in it.

    The memory is buffers and modules of the loss. The trainer saves neither: give it
    :class:`~st_plugins.training.LossStateCallback`. It is the same on all devices, whether or not their batches are
    gathered for the loss.

    There is no ``compute_loss_from_embeddings``, so that losses over several sizes refuse it as their base: the memory
    would change once per size, and hold a mixture of all. ``MatryoshkaLoss`` of sentence-transformers, which does not
    ask, is stopped by the width of the embeddings.

    Args:
        model: The model that is trained.
        mini_batch_size: Texts per mini-batch of gradient caching, or None.
        gather_across_devices: Whether a batch is that of all devices together.

    Raises:
        LossError: As :class:`EmbeddingLoss`; in training, if the width of the embeddings changes.
    """

    def __init__(self, model: SentenceTransformer, *, mini_batch_size: int | None, gather_across_devices: bool) -> None:
        super().__init__(model, mini_batch_size=mini_batch_size, gather_across_devices=gather_across_devices)
        self._width: int | None = None

    @property
    def is_learning(self) -> bool:
        """Whether a batch is one to remember: the trainer evaluates without gradients, and nothing is."""
        return self.training and torch.is_grad_enabled()

    def _checked(self, columns: list[Tensor], labels: Tensor | None) -> Tensor:
        width = columns[0].shape[-1]
        if self.is_learning and self._width not in (None, width):
            raise LossError(
                f"The embeddings of all batches must have one width, got {width} after {self._width}. "
                f"{type(self).__name__} remembers every batch once and cannot be the base of a loss over several "
                "sizes, such as MatryoshkaLoss. Train sizes with another base loss."
            )
        self._width = width if self.is_learning else self._width
        return super()._checked(columns, labels)


def of_all_devices(rows: Tensor) -> Tensor:
    """The rows of every device, one behind the other, without a gradient; in one process the same rows.

    Example:
        >>> of_all_devices(torch.tensor([1, 2]))
        tensor([1, 2])
    """
    is_alone = not (distributed.is_available() and distributed.is_initialized())
    return rows.detach() if is_alone else all_gather(rows.detach())
