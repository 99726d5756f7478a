"""The part that losses over several layers share: one base loss, checked options, one pass per column."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from st_plugins.first_modules import elastic_transformer
from st_plugins.functional import distribution_loss
from st_plugins.losses.batch_checks import check_first_batch, check_numbers
from st_plugins.losses.layers import Size, check_base_loss, check_options, full_size, layer_loss, precisely


class LayerLoss(nn.Module, ABC):
    """A formula over the embeddings of a batch at several layers. Not a loss by itself: a subclass brings the formula.

    A subclass sets ``layers``, the S layers it reads, and ``sizes``, the sizes it trains, and implements
    :meth:`compute_loss` and :meth:`options`; ``citation`` is its paper. In training, those sizes are recorded in the
    model, which refuses all others.

    Args:
        model: An elastic model.
        loss: The base loss.
        mini_batch_size: Texts per mini-batch of gradient caching, or None.
        temperature: > 0.
        **weights: Factors >= 0 of the subclass, by name, for the messages.

    Raises:
        UnsupportedModelError: If the model is not elastic.
        LossError: If the base loss has no embedding interface, or an option is out of range;
            in the first batch, if the base loss cannot use its columns or labels, or has nothing to compare; later, if
            the loss is NaN.
    """

    layers: tuple[int, ...]
    sizes: tuple[Size, ...]

    def __init__(
        self,
        model: SentenceTransformer,
        loss: nn.Module,
        *,
        mini_batch_size: int | None,
        temperature: float = 1.0,
        **weights: float,  # each subclass has its own
    ) -> None:
        super().__init__()
        self.full_size = full_size(model)
        check_base_loss(loss)
        check_options(mini_batch_size=mini_batch_size, temperature=temperature, **weights)
        self.model = model
        self.loss = loss
        self.temperature = temperature
        self.mini_batch_size = mini_batch_size
        self.uses_gradient_cache = mini_batch_size is not None
        self._has_seen_a_batch = False

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Tensor:
        """The loss of one batch, a scalar."""
        return self._run(sentence_features, labels, self.layers, lambda columns: self.compute_loss(columns, labels))

    @abstractmethod
    def compute_loss(self, columns: list[Tensor], labels: Tensor | None) -> Tensor:
        """The loss of embeddings that were computed before.

        Args:
            columns: One tensor (B, S, D) per column; S follows ``self.layers``. In training in single precision at
                least, whatever the model computes in.
            labels: As the base loss wants them.

        Returns:
            Tensor: A scalar.
        """

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """The subclass's own options by name, for the model card; those of this class are added."""

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says about the training."""
        return {
            "loss": type(self.loss).__name__,
            **self.options(),
            "temperature": self.temperature,
            "mini_batch_size": self.mini_batch_size,
        }

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """:func:`~st_plugins.functional.distribution_loss` of (B, N) and (B, N) at the temperature of this loss."""
        return distribution_loss(student, teacher, self.temperature)

    def _run(
        self,
        sentence_features: Iterable[dict[str, Any]],
        labels: Tensor | None,
        layers: tuple[int, ...],
        compute: Callable[[list[Tensor]], Tensor],
    ) -> Tensor:
        if self.training and torch.is_grad_enabled():
            elastic_transformer(self.model, "a loss over layers").add_sizes([*self.sizes, self.full_size])

        def value_of(columns: list[Tensor]) -> Tensor:
            # The first batch only: a last batch of one text at the end of an epoch must not stop a training.
            if not self._has_seen_a_batch:
                check_first_batch(self.loss, [column[:, -1] for column in columns], labels)
                self._has_seen_a_batch = True
            return compute(columns)

        def checked(columns: list[Tensor]) -> Tensor:
            check_numbers("The embeddings", columns)
            value = precisely(value_of, columns)
            check_numbers("The loss", [value])
            return value

        return layer_loss(self.model, sentence_features, layers, checked, self.mini_batch_size)
