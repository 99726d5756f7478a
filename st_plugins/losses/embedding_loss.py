"""The part that losses of one size share: columns embedded with or without cached gradients, gathered, checked."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses import CachedLossMixin
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sentence_transformers.util import all_gather, all_gather_with_grad
from torch import Tensor, nn

from st_plugins.errors import LossError
from st_plugins.losses.batch_checks import check_comparison, check_numbers
from st_plugins.losses.layers import check_options, precisely


class EmbeddingLoss(CachedLossMixin, nn.Module, ABC):
    """A formula over the embeddings of a batch. Not a loss by itself: a subclass brings the formula.

    A subclass implements :meth:`compute_loss` and :meth:`options`, offers :meth:`compute_loss_from_embeddings` if
    embeddings and labels are all it needs, and names its paper in ``citation``.

    Args:
        model: The model that is trained.
        mini_batch_size: Texts per mini-batch of gradient caching, or None.
        gather_across_devices: Whether a batch is that of all devices together. Each then computes the loss of all rows:
            the gradients that distributed training averages are those of one device with the whole batch.

    Raises:
        LossError: If an option is out of range, or gradients are to be cached for a ``StaticEmbedding``; in training if
            the first batch has nothing to compare, or embeddings or loss are NaN.
    """

    citation: str

    def __init__(
        self, model: SentenceTransformer, *, mini_batch_size: int | None, gather_across_devices: bool = False
    ) -> None:
        super().__init__()
        check_options(mini_batch_size=mini_batch_size)
        if mini_batch_size is not None and any(isinstance(module, StaticEmbedding) for module in model.modules()):
            raise LossError(
                "mini_batch_size must be None for a model with StaticEmbedding, whose batches cannot be cut, got "
                f"{mini_batch_size}. Such a model needs little memory without it."
            )
        self.model = model
        self.mini_batch_size = mini_batch_size
        self.uses_gradient_cache = mini_batch_size is not None
        self.gather_across_devices = gather_across_devices
        self._has_seen_a_batch = False

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Tensor:
        """The loss of one batch, a scalar."""
        if self.mini_batch_size is not None:
            return self.forward_cached(sentence_features, labels)
        return self._checked([self.model(dict(column))["sentence_embedding"] for column in sentence_features], labels)

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        """What the host's gradient caching asks for: the loss of columns that come in mini-batches."""
        loss = self._checked([torch.cat(column) for column in reps], labels)
        if with_backward:
            loss.backward()
            loss = loss.detach()
        return loss

    @abstractmethod
    def compute_loss(self, columns: list[Tensor], labels: Tensor | None) -> Tensor:
        """The formula.

        Args:
            columns: One tensor (B, D) per column, in single precision at least, of all devices if they are gathered.
            labels: What came with them.

        Returns:
            Tensor: A scalar.
        """

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """The subclass's own options by name, for the model card; those of this class are added."""

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says about the training."""
        return {
            **self.options(),
            "mini_batch_size": self.mini_batch_size,
            "gather_across_devices": self.gather_across_devices,
        }

    def _value(self, columns: list[Tensor], labels: Tensor | None) -> Tensor:
        """The formula on what it expects."""
        return precisely(lambda exact: self._gathered_loss(exact, labels), columns)

    def _gathered_loss(self, columns: list[Tensor], labels: Tensor | None) -> Tensor:
        if self.gather_across_devices:
            columns = [all_gather_with_grad(column) for column in columns]
            labels = None if labels is None else all_gather(labels)
        return self.compute_loss(columns, labels)

    def _checked(self, columns: list[Tensor], labels: Tensor | None) -> Tensor:
        check_numbers("The embeddings", columns)
        value = self._value(columns, labels)
        check_numbers("The loss", [value])
        # The first batch only: a last batch of one text at the end of an epoch must not stop a training.
        if not self._has_seen_a_batch:
            check_comparison(type(self).__name__, len(columns[0]), value)
            self._has_seen_a_batch = True
        return value
