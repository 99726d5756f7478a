"""Trains one model at many sizes, and its small queries to find full-size documents."""

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from st_plugins.functional import distribution_loss, truncate
from st_plugins.losses.layer_loss import LayerLoss
from st_plugins.losses.layers import Size, check_sizes, task_loss

_NARROWEST_DEFAULT_DIM = 32


class ElasticLoss(LayerLoss):
    """A base loss at every size of a model, with the full size as teacher of the others.

    It trains sizes (layer, dim) in one run of the encoder per column. It is no decorator around ``forward``: the base
    loss only ever sees embeddings. With S the smaller sizes and F the full size::

        loss = base(F) + mean over s in S of
               base(s)
               + distillation_weight * KL(P(F, F) || P(s, s))
               + cross_size_weight   * KL(P(F, F) || P(s, F))            for layers below the full depth

    P(a, b) is the softmax over all candidates of the batch of cos(anchor at size a, candidate at size b) /
    temperature. The second term makes each size rank as the full one does. The third makes a shallow query find
    documents that were indexed at full depth, which is how retrieval is served: documents once, queries on a budget;
    the candidates there are cut to the dim of s. Neither they nor the full size as a teacher receive a gradient.

    Args:
        model: An elastic model, see :func:`st_plugins.elastic`.
        loss: The base loss, built on the same model: any sentence-transformers loss that has
            ``compute_loss_from_embeddings``.
        sizes: Pairs (layer, dim); the full size is added if missing. None takes every layer with the dims D, D/2, D/4
            and D/8, none below 32.
        distillation_weight: >= 0.
        cross_size_weight: >= 0.
        temperature: Divides the cosines in P; > 0. At the default 0.05 a lead of 0.1 is a factor e^2.
        mini_batch_size: If given, gradients are cached (GradCache): memory is that of a batch of this many texts, the
            gradient that of the whole batch, the time about half as much again.

    Inputs:
        +---------------------------------------------+--------------------+
        | Columns                                     | Labels             |
        +=============================================+====================+
        | whatever the base loss takes                | of the base loss   |
        +---------------------------------------------+--------------------+

    Requirements:
        A batch with more than one candidate, or the distributions have nothing to compare.

    Relations:
        Unlike ST's ``Matryoshka2dLoss`` it trains the size that is served (final norm included), takes no random size
        per step, distils rankings instead of coordinates, works with gradient caching and with losses that return a
        dict, and has the cross-size term.

    Raises:
        LossError: If the model is not elastic, the base loss has no embedding interface, or a weight is out of range.
        SizeError: If a size does not exist.

    References:
        Ours. Sizes: 2D Matryoshka, https://arxiv.org/abs/2402.14776, and Starbucks, https://arxiv.org/abs/2410.13230.
        Gradient caching: https://arxiv.org/abs/2101.06983.

    Example:
        >>> model = st_plugins.elastic(SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"))
        >>> loss = ElasticLoss(model, MultipleNegativesRankingLoss(model), sizes=[(2, 64), (4, 128), (6, 384)])
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=pairs, loss=loss)
    """

    def __init__(
        self,
        model: SentenceTransformer,
        loss: nn.Module,
        *,
        sizes: Sequence[Size] | None = None,
        distillation_weight: float = 1.0,
        cross_size_weight: float = 1.0,
        temperature: float = 0.05,
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            model,
            loss,
            mini_batch_size=mini_batch_size,
            temperature=temperature,
            distillation_weight=distillation_weight,
            cross_size_weight=cross_size_weight,
        )
        self.sizes = check_sizes(_default_sizes(*self.full_size) if sizes is None else sizes, self.full_size)
        self.layers = tuple(sorted({layer for layer, _ in self.sizes} | {self.full_size[0]}))
        self.distillation_weight = distillation_weight
        self.cross_size_weight = cross_size_weight
        self.temperature = temperature

    def compute_loss(self, columns: list[Tensor], labels: Tensor | None) -> Tensor:
        """See :class:`LayerLoss`."""
        full = [column[:, -1] for column in columns]
        total = task_loss(self.loss, full, labels)
        if not self.sizes:
            return total
        teacher = self._scores([truncate(column, column.shape[-1]) for column in full]).detach()  # (B, N)
        smaller = total.new_zeros(())
        for layer, dim in self.sizes:
            index = self.layers.index(layer)
            cut = [truncate(column[:, index], dim) for column in columns]
            smaller = smaller + task_loss(self.loss, cut, labels)
            smaller = smaller + self.distillation_weight * self._kl(self._scores(cut), teacher)
            if layer < self.full_size[0]:
                deep = [truncate(column.detach(), dim) for column in full]
                crossed = self._scores([cut[0], *(deep[1:] or deep)])
                smaller = smaller + self.cross_size_weight * self._kl(crossed, teacher)
        return total + smaller / len(self.sizes)

    def _scores(self, embeddings: list[Tensor]) -> Tensor:
        """Cosines of unit vectors: anchors against every candidate, or against themselves in a one-column batch."""
        return embeddings[0] @ torch.cat(embeddings[1:] or embeddings).T  # (B, N)

    def _kl(self, student: Tensor, teacher: Tensor) -> Tensor:
        return distribution_loss(student, teacher, self.temperature)

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says about the training."""
        return {
            "loss": type(self.loss).__name__,
            "sizes": [list(size) for size in [*self.sizes, self.full_size]],
            "distillation_weight": self.distillation_weight,
            "cross_size_weight": self.cross_size_weight,
            "temperature": self.temperature,
            "mini_batch_size": self.mini_batch_size,
        }

    @property
    def citation(self) -> str:
        """BibTeX of what the loss builds on."""
        return """
@misc{li2024twodimensional,
    title={2D Matryoshka Sentence Embeddings},
    author={Xianming Li and Zongxi Li and Jing Li and Haoran Xie and Qing Li},
    year={2024},
    eprint={2402.14776},
    archivePrefix={arXiv}
}
"""


def _default_sizes(depth: int, width: int) -> list[Size]:
    dims = [width // fraction for fraction in (8, 4, 2, 1) if width // fraction >= _NARROWEST_DEFAULT_DIM]
    return [(layer, dim) for layer in range(1, depth + 1) for dim in dims or [width]]
