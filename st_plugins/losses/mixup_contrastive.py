"""Mixtures of embeddings as further examples, each partly a positive and partly a negative (Metrix)."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_plugins.errors import LossError
from st_plugins.losses.batch_checks import check_classes
from st_plugins.losses.citations import METRIX
from st_plugins.losses.embedding_loss import EmbeddingLoss
from st_plugins.losses.layers import check_positive, check_weights

Kind = Literal["multi_similarity", "contrastive"]


class MixupContrastiveLoss(EmbeddingLoss):
    """A loss over positives and negatives of each anchor, and the same loss over mixtures of the two.

    For an anchor a with positives P and negatives N, cosines s, margin m::

        clean(a) = up( sum over P of g(s(a, p)) ) + down( sum over N of h(s(a, n)) )

        "multi_similarity":  up(x) = log(1 + x) / alpha     g(s) = exp(-alpha (s - m))
                             down(x) = log(1 + x) / beta    h(s) = exp(beta (s - m))
        "contrastive":       up(x) = down(x) = x            g(s) = -s,  h(s) = max(0, s - m)

    A mixture is v = share * x + (1 - share) * n, with x either a positive or the anchor itself, one or the other for a
    whole batch, and n a negative, and counts as a positive by its share of x. With M all such v, X all such x::

        mixed(a) = up( sum over M of share g(s(a, v)) / |N| ) + down( sum over M of (1 - share) h(s(a, v)) / |X| )
        loss     = mean over anchors of clean(a) + mix_weight * mixed(a)

    ``share`` is drawn from Beta(mix_alpha, mix_alpha) for every batch, by torch's generator, so values differ from one
    call to the next. At share 1 with positives, mixed(a) is the first part of clean(a), at share 0 the second. For few
    pairs: mixtures fill the space between texts. They need no pass through the model.

    Args:
        model: The model that is trained.
        kind: Which functions; those of the multi-similarity loss or of the contrastive loss.
        mix_weight: >= 0; at 0 there is no mixing.
        mix_alpha: > 0. At 2 mixtures are seldom near one of their ends, at 1 all shares are equally likely.
        margin: m, a cosine.
        alpha: > 0.
        beta: > 0.
        mini_batch_size: If given, gradients are cached, see :class:`~st_plugins.losses.ElasticLoss`.
        gather_across_devices: Whether the texts of all devices are positives and negatives.

    Inputs:
        +-------------------------------------------------+----------------------+
        | Columns                                         | Labels               |
        +=================================================+======================+
        | (anchor, positive, negative_1, ..., negative_N) | none                 |
        +-------------------------------------------------+----------------------+
        | text                                            | number of the class  |
        +-------------------------------------------------+----------------------+

        Without labels all texts of other rows, and of negative columns, are negatives. N may be 0.

    Requirements:
        With labels, several texts of a class in a batch: ``batch_sampler=BatchSamplers.GROUP_BY_LABEL``. An anchor
        without positives, or without negatives, has 0 for that part and no mixtures. Memory for anchors x texts x the
        most positives that an anchor has, in numbers.

    Relations:
        ``MultipleNegativesRankingLoss`` of sentence-transformers is the one to beat on pairs.

    Raises:
        LossError: If an option is out of range, or a batch has one column without labels, or labels with more.

    References:
        Venkataramanan et al., *It Takes Two to Tango: Mixup for Deep Metric Learning*,
        https://arxiv.org/abs/2106.04990, on the level of embeddings; alpha 2, beta 50 and m 0.5 are those of the
        multi-similarity loss' own paper. Differs: sums over mixtures are divided by |N| and |X|, or would grow with the
        batch; all pairs are mixed, not hard ones alone. In the authors' code distances take the place of
        similarities, and hard negatives are looked up with the indices of another list.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> loss = MixupContrastiveLoss(model, kind="contrastive", mix_weight=0)
        >>> loss.compute_loss_from_embeddings([torch.eye(2), torch.eye(2)])
        tensor(-1.)
    """

    citation = METRIX

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        kind: Kind = "multi_similarity",
        mix_weight: float = 0.4,
        mix_alpha: float = 2.0,
        margin: float = 0.5,
        alpha: float = 2.0,
        beta: float = 50.0,
        mini_batch_size: int | None = None,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__(model, mini_batch_size=mini_batch_size, gather_across_devices=gather_across_devices)
        if kind not in ("multi_similarity", "contrastive"):
            raise LossError(f'kind must be "multi_similarity" or "contrastive", got {kind!r}.')
        check_weights(mix_weight=mix_weight)
        check_positive(mix_alpha=mix_alpha, alpha=alpha, beta=beta)
        if not -1 <= margin <= 1:
            raise LossError(f"margin must be a cosine, from -1 to 1, got {margin!r}.")
        self.kind = kind
        self.mix_weight = mix_weight
        self.mix_alpha = mix_alpha
        self.margin = margin
        self.alpha = alpha
        self.beta = beta

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None = None) -> Tensor:
        """The loss of embeddings that were computed before.

        Args:
            embeddings: One tensor (B, D) per column: anchors, positives and perhaps negatives, or texts alone.
            labels: None, or (B,) the classes of the texts.

        Returns:
            Tensor: A scalar, in single precision at least.
        """
        return self._value(embeddings, labels)

    def compute_loss(self, columns: list[Tensor], labels: Tensor | None) -> Tensor:
        """See :class:`EmbeddingLoss`."""
        unit = [F.normalize(column, dim=-1) for column in columns]
        anchors, texts = unit[0], torch.cat(unit[1:] or unit)  # (B, D), (N, D)
        is_positive, is_negative = _relations(columns, labels)  # (B, N) each
        cosines = anchors @ texts.T  # (B, N)
        clean = self.parts(cosines, is_positive.to(cosines), is_negative.to(cosines))
        if self.mix_weight == 0:
            return clean
        share = float(torch.distributions.Beta(self.mix_alpha, self.mix_alpha).sample())
        if torch.rand(()) < 0.5:
            mixed, pairs = _mixed_with_anchor(cosines, is_negative, share)
        else:
            mixed, pairs = _mixed_with_positives(cosines, texts, is_positive, is_negative, share)
        # How many negatives and how many positives (or the anchor alone) each anchor's mixtures are made of.
        negatives, others = pairs.any(dim=1).sum(dim=1), pairs.any(dim=2).sum(dim=1)  # (B,)
        ones = pairs.to(mixed)  # (B, X, N)
        attracted = share * ones / negatives.clamp(min=1)[:, None, None]
        repelled = (1 - share) * ones / others.clamp(min=1)[:, None, None]
        return clean + self.mix_weight * self.parts(mixed.flatten(1), attracted.flatten(1), repelled.flatten(1))

    def parts(self, cosines: Tensor, attracted: Tensor, repelled: Tensor) -> Tensor:
        """``up`` and ``down`` of weighted sums, all (B, N): mean over anchors."""
        lead = cosines - self.margin
        if self.kind == "contrastive":
            return (repelled * lead.clamp(min=0) - attracted * cosines).sum(dim=1).mean()
        up = _log_of_one_and(-self.alpha * lead, attracted) / self.alpha
        down = _log_of_one_and(self.beta * lead, repelled) / self.beta
        return (up + down).mean()

    def options(self) -> dict[str, Any]:
        """See :class:`EmbeddingLoss`."""
        return {
            "kind": self.kind,
            "mix_weight": self.mix_weight,
            "mix_alpha": self.mix_alpha,
            "margin": self.margin,
            "alpha": self.alpha,
            "beta": self.beta,
        }


def _relations(columns: list[Tensor], labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Which text is a positive of which anchor, and which a negative, (B, N) each."""
    rows = len(columns[0])
    own = torch.eye(rows, dtype=torch.bool, device=columns[0].device)
    if labels is None and len(columns) > 1:
        is_positive = F.pad(own, (0, rows * (len(columns) - 2)))
        return is_positive, ~is_positive
    if labels is None or len(columns) > 1:
        raise LossError(
            "MixupContrastiveLoss must have (anchor, positive, negative, ...) without labels, or one column of texts "
            f"with labels, got {len(columns)} columns {'without' if labels is None else 'with'} labels. "
            "Remove the labels, or the other columns."
        )
    classes = check_classes("MixupContrastiveLoss", labels, rows)
    same = classes[:, None] == classes
    return same & ~own, ~same


def _mixed_with_anchor(cosines: Tensor, is_negative: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Cosines of each anchor with the mixtures of itself and its negatives, and which of them exist: (B, 1, N)."""
    mixed = (share + (1 - share) * cosines) / _length(cosines, share)
    return mixed[:, None], is_negative[:, None]


def _mixed_with_positives(
    cosines: Tensor, texts: Tensor, is_positive: Tensor, is_negative: Tensor, share: float
) -> tuple[Tensor, Tensor]:
    """Cosines of each anchor with the mixtures of its positives and negatives, and which of them exist: (B, P, N)."""
    most = max(1, int(is_positive.sum(dim=1).max()))
    exists, chosen = is_positive.to(texts).topk(most, dim=1)  # (B, P)
    between = (texts @ texts.T)[chosen]  # (B, P, N)
    near = cosines.gather(1, chosen)[..., None]  # (B, P, 1)
    mixed = (share * near + (1 - share) * cosines[:, None]) / _length(between, share)
    return mixed, (exists > 0)[..., None] & is_negative[:, None]


def _length(cosines: Tensor, share: float) -> Tensor:
    """How long the mixtures of unit vectors with these cosines are."""
    squares = share**2 + (1 - share) ** 2 + 2 * share * (1 - share) * cosines
    return squares.clamp(min=1e-12).sqrt()


def _log_of_one_and(exponents: Tensor, weights: Tensor) -> Tensor:
    """log(1 + sum_n w_n exp(x_n)) of (B, N), without overflow."""
    terms = exponents + weights.log()  # a weight of 0 is -inf, whose gradient is 0
    return torch.cat([terms.new_zeros(len(terms), 1), terms], dim=1).logsumexp(dim=1)
