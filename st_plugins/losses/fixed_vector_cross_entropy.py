"""Cross entropy against class vectors that do not move: texts go where their class already is."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import cos_sim
from torch import Tensor

from st_plugins.errors import LossError
from st_plugins.losses.batch_checks import check_classes
from st_plugins.losses.citations import DEFSENT_PLUS
from st_plugins.losses.embedding_loss import EmbeddingLoss
from st_plugins.losses.layers import check_positive
from st_plugins.width import embedding_width


class FixedVectorCrossEntropyLoss(EmbeddingLoss):
    """Softmax regression whose weights are given and frozen, one vector per class.

    With z the embedding of a text of class y, e_0 ... e_(K - 1) the class vectors, f the similarity and s the scale::

        loss = mean over rows of - log( exp(s f(z, e_y)) / sum_k exp(s f(z, e_k)) )

    It is >= 0, and log K where all similarities are equal. Afterwards a text is classified by its nearest class vector,
    and models that were trained apart on the same class vectors are compatible with one another.

    Args:
        model: The model that is trained.
        class_vectors: (K, D), as wide as the model's embeddings. :func:`~st_plugins.losses.simplex_vertices` are as far
            apart as K vectors can be; embeddings of the classes' names keep what names have in common;
            :func:`~st_plugins.losses.class_means` of the texts' own embeddings are DefSent+'s.
        scale: s, > 0; 1 / temperature.
        similarity_fct: f, of (B, D) and (K, D) to (B, K).
        mini_batch_size: If given, gradients are cached, see :class:`~st_plugins.losses.ElasticLoss`.

    Inputs:
        +---------+-----------------------------+
        | Columns | Labels                      |
        +=========+=============================+
        | text    | number of the class, from 0 |
        +---------+-----------------------------+

    Requirements:
        None about batches: rows do not meet. Embeddings that a wrapper has cut (``ElasticLoss``, ``MatryoshkaLoss``)
        meet class vectors that are cut in the same way.

    Relations:
        ``SoftmaxLoss`` of sentence-transformers learns a classifier on pairs, and throws it away. DefSent+ trains in
        rounds: class means by the trained model, then again from the original weights.

    Raises:
        LossError: If the scale is not positive, or the class vectors are no finite matrix of the model's width; in a
            batch if there is more than one column, or a label that is no class.

    References:
        Liu, *DefSent+*, https://arxiv.org/abs/2405.16153: ``scale=1, similarity_fct=dot_score``. Biondi et al.,
        *Stationary Representations*, https://arxiv.org/abs/2405.02581: simplex vertices, without its second term, which
        needs the embeddings of an earlier model.

    Example:
        >>> from st_plugins.losses import simplex_vertices
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> loss = FixedVectorCrossEntropyLoss(model, simplex_vertices(77, 384))
        >>> loss.compute_loss_from_embeddings([torch.zeros(1, 384)], torch.tensor([5]))
        tensor(4.3438)
    """

    citation = DEFSENT_PLUS

    def __init__(
        self,
        model: SentenceTransformer,
        class_vectors: Tensor,
        *,
        scale: float = 20.0,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] = cos_sim,
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__(model, mini_batch_size=mini_batch_size)
        check_positive(scale=scale)
        vectors = torch.as_tensor(class_vectors).detach()
        width = embedding_width(model.children())
        if vectors.ndim != 2 or vectors.shape[1] != width or not torch.isfinite(vectors).all():
            raise LossError(
                f"class_vectors must be finite numbers of shape (classes, {width}), as wide as the embeddings, got "
                f"shape {tuple(vectors.shape)}. simplex_vertices(classes, {width}) gives some."
            )
        self.scale = scale
        self.similarity_fct = similarity_fct
        dtype = torch.promote_types(vectors.dtype, torch.float32)
        self.register_buffer("class_vectors", vectors.clone().to(dtype), persistent=False)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None = None) -> Tensor:
        """The loss of embeddings that were computed before.

        Args:
            embeddings: One tensor (B, d); the first d coordinates of the class vectors are compared.
            labels: (B,), rows of the class vectors.

        Returns:
            Tensor: A scalar, in single precision at least.
        """
        return self._value(embeddings, labels)

    def compute_loss(self, columns: list[Tensor], labels: Tensor | None) -> Tensor:
        """See :class:`EmbeddingLoss`."""
        if len(columns) != 1:
            raise LossError(
                f"FixedVectorCrossEntropyLoss must have one column of texts, got {len(columns)}. "
                "Give each text a row and a label of its own."
            )
        embeddings = columns[0]
        vectors = self.class_vectors[:, : embeddings.shape[1]].to(embeddings)
        labels = check_classes("FixedVectorCrossEntropyLoss", labels, len(embeddings), len(vectors))
        return F.cross_entropy(self.scale * self.similarity_fct(embeddings, vectors), labels)

    def options(self) -> dict[str, Any]:
        """See :class:`EmbeddingLoss`."""
        return {
            "classes": len(self.class_vectors),
            "scale": self.scale,
            "similarity_fct": getattr(self.similarity_fct, "__name__", type(self.similarity_fct).__name__),
        }
