"""Trains one model at many sizes, and its small queries to find full-size documents."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from st_plugins.errors import LossError
from st_plugins.functional import truncate
from st_plugins.losses.citations import TWO_D_MATRYOSHKA
from st_plugins.losses.frozen_models import check_own_weights, embed_frozen
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
               + cross_size_weight   * (KL(P(F, F) || P(s, F)) + KL(Q(F, F) || Q(s, F)))     below the full depth

    P(a, b) is the softmax over all candidates of the batch of cos(anchor at size a, candidate at size b) /
    temperature; Q the same with every text of the batch as an anchor and as a candidate, itself included. The second
    term makes each size rank as the full one does. The third makes a shallow query find documents that were indexed at
    full depth, which is how retrieval is served: documents once, queries on a budget; the deep texts there are cut to
    the dim of s. Neither they nor the full size as a teacher receive a gradient.

    Training on one kind of text costs a good model quality on all others, at full size too. With a ``teacher``, a
    frozen copy of the model from before the training or a larger one, its P and Q replace P(F, F) and Q(F, F), and
    this is added, which keeps the full size near it::

        distillation_weight * KL(P(teacher) || P(F, F)) + teacher_weight * mean over texts of (1 - cos(F, teacher))

    A text leaves early (``exit=...``) where its shallow vector is the deep one already. Rankings alone do not make it
    so; this does, over the layers k below the depth, with e the vector of a teacher as wide as the model, or else e_L::

        convergence_weight * mean over k and texts of (1 - cos(e_k, e))

    Args:
        model: An elastic model, see :func:`st_plugins.elastic`.
        loss: The base loss, built on the same model: any sentence-transformers loss that has
            ``compute_loss_from_embeddings``.
        sizes: Pairs (layer, dim); the full size is added if missing. None takes every layer with the dims D, D/2, D/4
            and D/8, none below 32.
        distillation_weight: >= 0.
        cross_size_weight: >= 0.
        temperature: Divides the cosines in P; > 0. At the default 0.05 a lead of 0.1 is a factor e^2.
        teacher: A model with the same tokenizer, any depth and width, often ``copy.deepcopy(model)``; it is not
            trained. Costs a forward pass per step. None lets the full size teach.
        teacher_weight: >= 0, of the cosines to a teacher as wide as the model; one of another width has none.
        convergence_weight: >= 0, of the shallow vectors' cosines to the deep ones: for texts that leave early on both
            sides of a comparison. Where we measured it, shallow queries for deep documents lost by it.
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
        :func:`st_plugins.align_layers` before the training helps more than any option here, and costs a minute. Unlike
        ST's ``Matryoshka2dLoss`` it trains the size that is served (final norm included), takes no random size per
        step, distils rankings instead of coordinates, works with gradient caching and with losses that return a dict,
        and has the cross-size term.

    Raises:
        UnsupportedModelError: If the model is not elastic.
        LossError: If the base loss has no embedding interface, a weight is out of range, or
            the teacher shares weights with the model or has another tokenizer; in training as :class:`LayerLoss`.
        SizeError: If a size does not exist.

    References:
        Ours. Sizes: 2D Matryoshka, https://arxiv.org/abs/2402.14776, and Starbucks, https://arxiv.org/abs/2410.13230.
        Gradient caching: https://arxiv.org/abs/2101.06983.

    Example:
        >>> model = st_plugins.elastic(SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"))
        >>> loss = ElasticLoss(model, MultipleNegativesRankingLoss(model), sizes=[(2, 64), (4, 128), (6, 384)])
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=pairs, loss=loss)
    """

    citation = TWO_D_MATRYOSHKA

    def __init__(
        self,
        model: SentenceTransformer,
        loss: nn.Module,
        *,
        sizes: Sequence[Size] | None = None,
        distillation_weight: float = 1.0,
        cross_size_weight: float = 1.0,
        temperature: float = 0.05,
        teacher: SentenceTransformer | None = None,
        teacher_weight: float = 10.0,
        convergence_weight: float = 0.0,
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            model,
            loss,
            mini_batch_size=mini_batch_size,
            temperature=temperature,
            distillation_weight=distillation_weight,
            cross_size_weight=cross_size_weight,
            teacher_weight=teacher_weight,
            convergence_weight=convergence_weight,
        )
        self.sizes = check_sizes(_default_sizes(*self.full_size) if sizes is None else sizes, self.full_size)
        self.layers = tuple(sorted({layer for layer, _ in self.sizes} | {self.full_size[0]}))
        self.distillation_weight = distillation_weight
        self.cross_size_weight = cross_size_weight
        if teacher is not None:
            _check_teacher(teacher, model)
        self.teacher = teacher
        self.teacher_weight = teacher_weight
        self.convergence_weight = convergence_weight

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Tensor:
        """The loss of one batch, a scalar."""
        features = list(sentence_features)
        teacher = self.teacher
        taught = None if teacher is None else [embed_frozen(teacher, c, self.mini_batch_size) for c in features]
        return self._run(features, labels, self.layers, lambda columns: self.compute_loss(columns, labels, taught))

    def compute_loss(self, columns: list[Tensor], labels: Tensor | None, taught: list[Tensor] | None = None) -> Tensor:
        """The loss of embeddings that were computed before.

        Args:
            columns: One tensor (B, S, D) per column; S follows ``self.layers``.
            labels: As the base loss wants them.
            taught: The teacher's embeddings, one tensor (B, D') per column; None for those of the full size.

        Returns:
            Tensor: A scalar.
        """
        full = [column[:, -1] for column in columns]
        total = task_loss(self.loss, full, labels)
        teacher = [truncate(column.detach().to(full[0]), column.shape[-1]) for column in taught or full]
        ranking, every = _scores(teacher), torch.cat(teacher)
        if taught:
            total = total + self._hold(full, teacher, ranking)
        if self.convergence_weight:
            total = total + self.convergence_weight * self._distance(columns, full, every)
        neighbours = every @ every.T  # (N, N)
        terms = [self._term(size, columns, labels, ranking, neighbours) for size in self.sizes]
        return total + sum(terms) / max(1, len(terms))

    def _hold(self, full: list[Tensor], teacher: list[Tensor], ranking: Tensor) -> Tensor:
        """What keeps the full size near the teacher."""
        unit = [truncate(column, column.shape[-1]) for column in full]
        value = self.distillation_weight * self.divergence(_scores(unit), ranking)
        if teacher[0].shape != unit[0].shape:
            return value
        cosines = (torch.cat(unit) * torch.cat(teacher)).sum(dim=-1)  # (N,)
        return value + self.teacher_weight * (1 - cosines).mean()

    def _distance(self, columns: list[Tensor], full: list[Tensor], every: Tensor) -> Tensor:
        """How far the shallow vectors are from the deep ones, the teacher's (N, D') if they are as wide."""
        if len(self.layers) == 1:
            return full[0].new_zeros(())
        shallow = torch.cat(columns)[:, :-1]  # (N, S - 1, D)
        deep = every if every.shape[-1] == shallow.shape[-1] else torch.cat(full).detach()
        return 1 - F.cosine_similarity(shallow, deep[:, None], dim=-1).mean()

    def _term(self, *arguments: Any) -> Tensor:
        """What one size adds. With the large batches of gradient caching, the scores of one size at a time are kept."""
        if self.mini_batch_size is None:
            return self._smaller(*arguments)
        return checkpoint(self._smaller, *arguments, use_reentrant=False)

    def _smaller(
        self, size: Size, columns: list[Tensor], labels: Tensor | None, ranking: Tensor, neighbours: Tensor
    ) -> Tensor:
        """The three terms of one size, given the scores (B, N') in P and (N, N) in Q of the teacher."""
        layer, dim = size
        cut = [truncate(column[:, self.layers.index(layer)], dim) for column in columns]
        value = task_loss(self.loss, cut, labels) + self.distillation_weight * self.divergence(_scores(cut), ranking)
        if layer == self.full_size[0]:
            return value
        deep = [truncate(column[:, -1].detach(), dim) for column in columns]
        crossed = self.divergence(_scores([cut[0], *(deep[1:] or deep)]), ranking)
        crossed = crossed + self.divergence(torch.cat(cut) @ torch.cat(deep).T, neighbours)
        return value + self.cross_size_weight * crossed

    def options(self) -> dict[str, Any]:
        """See :class:`LayerLoss`."""
        return {
            "sizes": [list(size) for size in [*self.sizes, self.full_size]],
            "distillation_weight": self.distillation_weight,
            "cross_size_weight": self.cross_size_weight,
            "teacher": self.teacher is not None,
            "teacher_weight": self.teacher_weight,
            "convergence_weight": self.convergence_weight,
        }


def _scores(embeddings: list[Tensor]) -> Tensor:
    """Cosines of unit vectors: anchors against every candidate, or against themselves in a one-column batch."""
    return embeddings[0] @ torch.cat(embeddings[1:] or embeddings).T  # (B, N)


def _check_teacher(teacher: SentenceTransformer, model: SentenceTransformer) -> None:
    if isinstance(teacher, nn.Module):
        check_own_weights("teacher", teacher, model)
    is_transformer = isinstance(teacher, SentenceTransformer) and isinstance(teacher[0], Transformer)
    if not is_transformer or teacher.tokenizer.get_vocab() != model.tokenizer.get_vocab():
        raise LossError(
            "teacher must be a SentenceTransformer that starts with a Transformer and has the tokenizer of the model, "
            f"this {type(teacher).__name__} is none. Pass copy.deepcopy(model), or a larger model of the same family."
        )


def _default_sizes(depth: int, width: int) -> list[Size]:
    dims = [width // fraction for fraction in (8, 4, 2, 1) if width // fraction >= _NARROWEST_DEFAULT_DIM]
    return [(layer, dim) for layer in range(1, depth + 1) for dim in dims or [width]]
