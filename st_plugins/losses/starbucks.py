"""Starbucks representation learning: a fixed menu of sizes, all trained in every step."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from st_plugins.errors import LossError
from st_plugins.functional import truncate
from st_plugins.losses.citations import STARBUCKS
from st_plugins.losses.layer_loss import LayerLoss
from st_plugins.losses.layers import Size, check_sizes, starbucks_menu, task_loss


class StarbucksLoss(LayerLoss):
    """The sum of a base loss over a fixed menu of sizes, each distilled from the full one (SRL).

    With F the full size and s the smaller ones::

        loss = base(F) + sum over s of base(s) + distillation_weight * KL(P(F) || P(s))

    What P is depends on the flavour. ``"retrieval"``: the softmax over all candidates of the anchors' dot products with
    them, divided by the temperature; embeddings enter as they are, cut but not normalised. ``"sts"``: the softmax of
    the first d coordinates of each text, of s and of F alike, and KL times 0.3; the base loss sees unit vectors.

    Args:
        model: An elastic model, see :func:`st_plugins.elastic`.
        loss: The base loss, built on the same model; any with ``compute_loss_from_embeddings``. For retrieval the paper
            uses dot products: ``MultipleNegativesRankingLoss(model, scale=1, similarity_fct=dot_score)``.
        sizes: Pairs (layer, dim) besides the full one. None takes the paper's menu for 12 layers and 768 dims, (2, 32),
            (4, 64), (6, 128), (8, 256), (10, 512), in proportion.
        flavour: Which of the paper's two losses.
        distillation_weight: >= 0; 1 in the paper.
        temperature: > 0, divides scores or coordinates; 1 in the paper.
        mini_batch_size: If given, gradients are cached, see :class:`~st_plugins.losses.ElasticLoss`.

    Inputs:
        Whatever the base loss takes; the retrieval flavour needs two or more columns.

    Raises:
        UnsupportedModelError: If the model is not elastic.
        LossError: If the base loss has no embedding interface, an option is out of range, or
            the retrieval flavour gets one column.
        SizeError: If a size does not exist.

    References:
        Zhuang et al., *Starbucks: Improved Training for 2D Matryoshka Embeddings*, https://arxiv.org/abs/2410.13230,
        section 3.1. Differs from the authors' code: the full size gets no gradient as a teacher in the STS flavour
        either. Their pre-training (SMAE) is :class:`~st_plugins.losses.MaskedAutoencoderLoss`.

    Example:
        >>> model = st_plugins.load("minilm-elastic")
        >>> loss = StarbucksLoss(model, MultipleNegativesRankingLoss(model), flavour="sts")
        >>> loss.sizes
        ((1, 16), (2, 32), (3, 64), (4, 128), (5, 256))
    """

    citation = STARBUCKS

    def __init__(
        self,
        model: SentenceTransformer,
        loss: nn.Module,
        *,
        sizes: Sequence[Size] | None = None,
        flavour: Literal["retrieval", "sts"] = "retrieval",
        distillation_weight: float = 1.0,
        temperature: float = 1.0,
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            model,
            loss,
            mini_batch_size=mini_batch_size,
            temperature=temperature,
            distillation_weight=distillation_weight,
        )
        if flavour not in ("retrieval", "sts"):
            raise LossError(f'flavour must be "retrieval" or "sts", got {flavour!r}.')
        self.sizes = check_sizes(starbucks_menu(*self.full_size) if sizes is None else sizes, self.full_size)
        self.layers = tuple(sorted({layer for layer, _ in self.sizes} | {self.full_size[0]}))
        self.flavour = flavour
        self.distillation_weight = distillation_weight

    def compute_loss(self, columns: list[Tensor], labels: Tensor | None) -> Tensor:
        """See :class:`LayerLoss`."""
        if self.flavour == "retrieval" and len(columns) < 2:
            raise LossError(
                f"The retrieval flavour needs anchors and candidates, two or more columns, got {len(columns)}. "
                'Use flavour="sts" for single texts.'
            )
        full = [column[:, -1] for column in columns]
        total = task_loss(self.loss, full, labels)
        for layer, dim in self.sizes:
            cut = [column[:, self.layers.index(layer), :dim] for column in columns]
            if self.flavour == "sts":
                task = task_loss(self.loss, [truncate(embeddings, dim) for embeddings in cut], labels)
                teaching = 0.3 * self.divergence(torch.cat(cut), torch.cat(full)[:, :dim])
            else:
                task = task_loss(self.loss, cut, labels)
                teaching = self.divergence(_dot_products(cut), _dot_products(full))
            total = total + task + self.distillation_weight * teaching
        return total

    def options(self) -> dict[str, Any]:
        """See :class:`LayerLoss`."""
        return {
            "sizes": [list(size) for size in [*self.sizes, self.full_size]],
            "flavour": self.flavour,
            "distillation_weight": self.distillation_weight,
        }


def _dot_products(embeddings: list[Tensor]) -> Tensor:
    return embeddings[0] @ torch.cat(embeddings[1:]).T  # (B, N)
