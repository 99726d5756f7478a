"""Espresso sentence embeddings (ESE): every layer learns, and the leading coordinates learn to hold most of it."""

import math
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from st_plugins.functional import compression_target, truncate
from st_plugins.losses.citations import ESPRESSO
from st_plugins.losses.layer_loss import LayerLoss
from st_plugins.losses.layers import check_sizes, task_loss


class EspressoLoss(LayerLoss):
    """A base loss at every layer with depth weights, and a term that presses information into the first k coordinates.

    With h_i the embeddings of all columns at layer i, L the depth, [:k] the first k coordinates, P_k the compression
    target of :func:`~st_plugins.functional.compression_target` and T the temperature::

        R(h)  = mean (h[:k] - P_k(h))^2 + T * KL(softmax(P_k(h) / T) || softmax(h[:k] / T))
        w_i   = 1 / (1 + ln i)
        loss  = base(h_L) + base(h_L[:k]) + R(h_L) + 1/(L - 1) * sum over i < L of w_i * (base(h_i[:k]) + R(h_i))

    Shallow layers are trained at dim k only. R looks at coordinates as they are, so a model that ends in ``Normalize``
    has small ones, and R a small value.

    Args:
        model: An elastic model, see :func:`st_plugins.elastic`.
        loss: The base loss, built on the same model; any with ``compute_loss_from_embeddings``.
        dim: The compressed size k; 128 in the paper.
        compression_weight: Factor of R, >= 0; 1 in the paper.
        temperature: T, > 0; 1 in the paper.
        mini_batch_size: If given, gradients are cached, see :class:`~st_plugins.losses.ElasticLoss`.

    Inputs:
        Whatever the base loss takes.

    Recommendations:
        Each layer and step costs a singular value decomposition of a D x D matrix. The target depends on the batch size
        and on the scale of the embeddings: keep both fixed during a run.

    Raises:
        UnsupportedModelError: If the model is not elastic.
        LossError: If the base loss has no embedding interface, or an option is out of range.
        SizeError: If the dim does not exist.

    References:
        Li et al., *ESE: Espresso Sentence Embeddings*, https://arxiv.org/abs/2402.14776 (v2), equations 2 to 7. Differs
        from the authors' code: layers are 1 to L - 1, as in the paper, where the code takes the embedding output in and
        leaves layer L - 1 out; the decomposition is exact and its signs are fixed, where the code's is random, so that
        the target does not flip between steps; base embeddings are normalised after the cut.

    Example:
        >>> model = st_plugins.load("minilm-elastic")
        >>> loss = EspressoLoss(model, MultipleNegativesRankingLoss(model), dim=64)
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=pairs, loss=loss)
    """

    citation = ESPRESSO

    def __init__(
        self,
        model: SentenceTransformer,
        loss: nn.Module,
        *,
        dim: int = 128,
        compression_weight: float = 1.0,
        temperature: float = 1.0,
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            model,
            loss,
            mini_batch_size=mini_batch_size,
            temperature=temperature,
            compression_weight=compression_weight,
        )
        depth, _ = self.full_size
        check_sizes([(depth, dim)], self.full_size)
        self.dim = dim
        self.layers = tuple(range(1, depth + 1))
        self.sizes = tuple((layer, dim) for layer in self.layers)
        self.compression_weight = compression_weight

    def compute_loss(self, columns: list[Tensor], labels: Tensor | None) -> Tensor:
        """See :class:`LayerLoss`; S is L, layer 1 first."""
        total = task_loss(self.loss, [column[:, -1] for column in columns], labels)
        *shallow, full = [[column[:, index] for column in columns] for index in range(len(self.layers))]
        total = total + self._compressed(full, labels)
        for layer, embeddings in zip(self.layers, shallow, strict=False):
            weight = 1 / (1 + math.log(layer))
            total = total + weight * self._compressed(embeddings, labels) / len(shallow)
        return total

    def _compressed(self, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
        """The base loss at the compressed size, and R."""
        task = task_loss(self.loss, [truncate(column, self.dim) for column in embeddings], labels)
        rows = torch.cat(embeddings)  # (N, D)
        target = compression_target(rows, self.dim)  # (N, k)
        kept = rows[:, : self.dim]
        difference = nn.functional.mse_loss(kept, target)
        divergence = self.divergence(kept, target)
        return task + self.compression_weight * (difference + self.temperature * divergence)

    def options(self) -> dict[str, Any]:
        """See :class:`LayerLoss`."""
        return {
            "dim": self.dim,
            "compression_weight": self.compression_weight,
        }
