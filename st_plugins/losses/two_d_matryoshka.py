"""2D Matryoshka as its paper has it: one random layer and one random dim per step."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from st_plugins.errors import LossError
from st_plugins.functional import truncate
from st_plugins.losses.citations import TWO_D_MATRYOSHKA
from st_plugins.losses.layer_loss import LayerLoss
from st_plugins.losses.layers import check_sizes, task_loss

_NARROWEST_DEFAULT_DIM = 8


class TwoDMatryoshkaLoss(LayerLoss):
    """A base loss at a random layer and a random dim, beside the full ones, and an alignment of the two layers (2DMSE).

    Every step draws one layer n below the depth L and one dim d below the width D, uniformly. With e(k, d) the first d
    coordinates at layer k, normalised after the cut, and h(k) all coordinates as they are::

        loss = base(e(L, D)) + base(e(n, D)) + base(e(L, d)) + base(e(n, d))
               + alignment_weight * KL(softmax(h(L)) || softmax(h(n)))       over coordinates, mean over texts

    Prefer :class:`~st_plugins.losses.ElasticLoss`, which trains every size in every step at the same cost; this one is
    for comparison with the literature.

    Args:
        model: An elastic model, see :func:`st_plugins.elastic`.
        loss: The base loss, built on the same model; any with ``compute_loss_from_embeddings``.
        layers: Layers to draw from, below L. None takes all of them.
        dims: Dims to draw from, below D. None takes 8, 16, 32, ... as the paper does.
        alignment_weight: >= 0; 1 in the paper.
        mini_batch_size: If given, gradients are cached, see :class:`~st_plugins.losses.ElasticLoss`.

    Inputs:
        Whatever the base loss takes.

    Relations:
        sentence-transformers' ``Matryoshka2dLoss`` draws different dims for the two layers, includes the embedding
        output among the layers, trains pre-norm models without their final norm, and does not work with gradient
        caching.

    Raises:
        UnsupportedModelError: If the model is not elastic.
        LossError: If the base loss has no embedding interface, or an option is out of range.
        SizeError: If a layer or dim does not exist.

    References:
        Li et al., *2D Matryoshka Sentence Embeddings*, https://arxiv.org/abs/2402.14776 (v1 and v3), equations of
        section 3; v2 is :class:`~st_plugins.losses.EspressoLoss`. Differs from the authors' code: the full layer gets
        no gradient as the teacher of the alignment, or it would be pulled towards the shallow one; the base loss is the
        caller's, not AnglE.

    Example:
        >>> model = st_plugins.load("minilm-elastic")
        >>> loss = TwoDMatryoshkaLoss(model, MultipleNegativesRankingLoss(model), dims=[64, 128])
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=pairs, loss=loss)
    """

    citation = TWO_D_MATRYOSHKA

    def __init__(
        self,
        model: SentenceTransformer,
        loss: nn.Module,
        *,
        layers: Sequence[int] | None = None,
        dims: Sequence[int] | None = None,
        alignment_weight: float = 1.0,
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__(model, loss, mini_batch_size=mini_batch_size, alignment_weight=alignment_weight)
        depth, width = self.full_size
        layers = range(1, depth) if layers is None else layers
        dims = _powers_of_two(width) if dims is None else dims
        if depth in layers:
            raise LossError(f"layers must lie below the full depth {depth}, got {list(layers)}. It is always trained.")
        if width in dims:
            raise LossError(f"dims must lie below the full width {width}, got {list(dims)}. It is always trained.")
        self.drawn_layers = tuple(
            layer for layer, _ in check_sizes([(layer, width) for layer in layers], self.full_size)
        )
        self.dims = tuple(dim for _, dim in check_sizes([(depth, dim) for dim in dims], self.full_size))
        self.layers = (*self.drawn_layers, depth)
        self.sizes = tuple((layer, dim) for layer in self.layers for dim in (*self.dims, width))
        self.alignment_weight = alignment_weight

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Tensor:
        """The loss of one batch at a newly drawn layer and dim, a scalar."""
        layers, dim = (_draw(self.drawn_layers), self.full_size[0]), _draw(self.dims)
        return self._run(sentence_features, labels, layers, lambda columns: self.compute_loss(columns, labels, dim))

    def compute_loss(self, columns: list[Tensor], labels: Tensor | None, dim: int | None = None) -> Tensor:
        """The loss of embeddings that were computed before.

        Args:
            columns: One tensor (B, 2, D) per column: the drawn layer, then the full depth.
            labels: As the base loss wants them.
            dim: The drawn dim; None draws one.

        Returns:
            Tensor: A scalar.
        """
        dim = _draw(self.dims) if dim is None else dim
        shallow, deep = [column[:, 0] for column in columns], [column[:, 1] for column in columns]
        total = task_loss(self.loss, deep, labels) + task_loss(self.loss, shallow, labels)
        for layer in (deep, shallow):
            total = total + task_loss(self.loss, [truncate(embeddings, dim) for embeddings in layer], labels)
        alignment = self.divergence(torch.cat(shallow), torch.cat(deep))
        return total + self.alignment_weight * alignment

    def options(self) -> dict[str, Any]:
        """See :class:`LayerLoss`."""
        return {
            "layers": list(self.drawn_layers),
            "dims": list(self.dims),
            "alignment_weight": self.alignment_weight,
        }


def _powers_of_two(width: int) -> list[int]:
    return [dim for exponent in range(32) if _NARROWEST_DEFAULT_DIM <= (dim := 2**exponent) < width]


def _draw(choices: Sequence[int]) -> int:
    """From torch's generator, so that the trainer's seed decides."""
    return choices[int(torch.randint(len(choices), ()))]
