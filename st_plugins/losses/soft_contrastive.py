"""Named labels as graded targets: a text shall be near those whose labels mean something similar (Dialog2Flow)."""

from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_plugins.errors import LossError
from st_plugins.losses.batch_checks import check_classes
from st_plugins.losses.citations import DIALOG2FLOW
from st_plugins.losses.embedding_loss import EmbeddingLoss
from st_plugins.losses.layers import check_positive


class SoftContrastiveLoss(EmbeddingLoss):
    """Cross entropy of a text's similarities to the others, against the similarities of their labels' names.

    A hard contrastive loss pushes "cancel my flight" as far from "change my booking" as from "tell me a joke". With z
    the embeddings, y_i the label of row i and v the embeddings of the labels' texts, by any model, once and for all::

        target_i = softmax over j of cos(v[y_i], v[y_j]) / label_temperature       (B, B), no gradient
        scores_i = softmax over j of cos(z1_i, z2_j) / temperature                 (B, B)
        loss     = mean over i of - sum_j target_ij log scores_ij                  and the same from z2 to z1, averaged

    where j runs over all rows, i itself included, whose pair has the same label. One column is compared with itself,
    each text with all others. The value is >= the entropy of the target, which it reaches where the scores are the
    target; it is therefore not 0 at the optimum. A small label temperature leaves only equal labels (supervised
    contrastive learning), a large one wants all texts equally near.

    Args:
        model: The model that is trained.
        label_embeddings: v, (L, D'): row l is the embedding of the text of label l. Labels without a meaning, as
            numbers or codes, are better served by hard losses.
        temperature: Divides the cosines of texts; > 0.
        label_temperature: Divides the cosines of labels; > 0. At the default 0.35 an equal label weighs
            e^(1 / 0.35) = 17 times as much as an unrelated one.
        mini_batch_size: If given, gradients are cached, see :class:`~st_plugins.losses.ElasticLoss`.
        gather_across_devices: Whether the rows of all devices are compared.

    Inputs:
        +------------------------------+----------------------------------+
        | Columns                      | Labels                           |
        +==============================+==================================+
        | text                         | number of the label, from 0      |
        +------------------------------+----------------------------------+
        | (text, text of equal label)  | number of the label, from 0      |
        +------------------------------+----------------------------------+

    Requirements:
        Two rows or more. One column needs no equal labels in a batch: similar ones do.

    Relations:
        Where labels have no names, ``BatchAllTripletLoss`` of sentence-transformers or
        :class:`~st_plugins.losses.OrthogonalProjectionLoss`. ``DistillKLDivLoss`` takes graded scores of a teacher for
        the pairs of a row; here the grades are between rows, and come from labels.

    Raises:
        LossError: If a temperature is not positive, the label embeddings are no finite matrix, or a batch has other
            columns or labels than these.

    References:
        Burdisso et al., *Dialog2Flow*, https://arxiv.org/abs/2410.18481, section 3; both directions as in its code.
        Differs from the paper: no projection head, which the model can have as a ``Dense`` instead; one column is
        allowed, without each text's cosine with itself, which would be the largest term and teach nothing.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> names = ["cancel a flight", "change a booking", "tell a joke"]
        >>> loss = SoftContrastiveLoss(model, torch.from_numpy(model.encode(names)))
        >>> texts = torch.eye(2)
        >>> far = loss.compute_loss_from_embeddings([texts, texts], torch.tensor([0, 1]))
        >>> bool(far < loss.compute_loss_from_embeddings([texts, texts.flip(0)], torch.tensor([0, 1])))
        True
    """

    citation = DIALOG2FLOW

    def __init__(
        self,
        model: SentenceTransformer,
        label_embeddings: Tensor,
        *,
        temperature: float = 0.05,
        label_temperature: float = 0.35,
        mini_batch_size: int | None = None,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__(model, mini_batch_size=mini_batch_size, gather_across_devices=gather_across_devices)
        check_positive(temperature=temperature, label_temperature=label_temperature)
        vectors = torch.as_tensor(label_embeddings).detach()
        if vectors.ndim != 2 or not vectors.is_floating_point() or not torch.isfinite(vectors).all():
            raise LossError(
                "label_embeddings must be a matrix of finite numbers, one row per label, got "
                f"{vectors.dtype} of shape {tuple(vectors.shape)}. Take model.encode(names, convert_to_tensor=True)."
            )
        dtype = torch.promote_types(vectors.dtype, torch.float32)
        self.temperature = temperature
        self.label_temperature = label_temperature
        self.register_buffer("label_vectors", F.normalize(vectors.clone().to(dtype), dim=-1), persistent=False)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None = None) -> Tensor:
        """The loss of embeddings that were computed before.

        Args:
            embeddings: One or two tensors (B, D).
            labels: (B,), rows of the label embeddings.

        Returns:
            Tensor: A scalar, in single precision at least.
        """
        return self._value(embeddings, labels)

    def compute_loss(self, columns: list[Tensor], labels: Tensor | None) -> Tensor:
        """See :class:`EmbeddingLoss`."""
        if len(columns) > 2:
            raise LossError(
                f"SoftContrastiveLoss must have one column of texts or two, got {len(columns)}. "
                "Negatives are of no use to it: how near rows shall be is in their labels."
            )
        vectors = self.label_vectors.to(columns[0])
        rows = vectors[check_classes("SoftContrastiveLoss", labels, len(columns[0]), len(vectors))]  # (B, D')
        wanted = rows @ rows.T / self.label_temperature  # (B, B)
        unit = [F.normalize(column, dim=-1) for column in columns]
        scores = unit[0] @ unit[-1].T / self.temperature  # (B, B)
        if len(columns) == 1:
            return _cross_entropy(_others(scores), _others(wanted))
        return (_cross_entropy(scores, wanted) + _cross_entropy(scores.T, wanted)) / 2

    def options(self) -> dict[str, Any]:
        """See :class:`EmbeddingLoss`."""
        return {
            "labels": len(self.label_vectors),
            "temperature": self.temperature,
            "label_temperature": self.label_temperature,
        }


def _cross_entropy(scores: Tensor, wanted: Tensor) -> Tensor:
    """Mean over rows, both (B, N) before the softmax."""
    return -(wanted.softmax(dim=-1) * scores.log_softmax(dim=-1)).sum(dim=-1).mean()


def _others(square: Tensor) -> Tensor:
    """(B, B) without its diagonal, (B, B - 1)."""
    rows = len(square)
    return square[~torch.eye(rows, dtype=torch.bool, device=square.device)].reshape(rows, rows - 1)
