"""In-batch negatives without the false ones: a guide that is not trained says which texts are none."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import batch_to_device
from torch import Tensor

from st_plugins.errors import LossError
from st_plugins.losses.citations import GIST
from st_plugins.losses.embedding_loss import EmbeddingLoss
from st_plugins.losses.frozen_models import check_own_weights, embed_frozen
from st_plugins.losses.layers import check_positive

_ROUNDING = 1e-6  # cosines of one text with itself differ by less, in single precision


class GuidedNegativesLoss(EmbeddingLoss):
    """Cross entropy of the positive among the texts of the batch that a guide finds less similar (GIST).

    With q_i, p_i, n_i1 ... n_iN the texts of row i, s the cosines of the model, g those of the guide and t the
    temperature, every anchor is compared with the positives and negatives of all rows and with the other anchors, and
    its positive with the other positives::

        x_i   = { (q_i, p_j), (q_i, n_jk), (q_i, q_j) for j != i, (p_i, p_j) for j != i }        all j and k
        kept  = those pairs u of x_i with g(u) < g(q_i, p_i) - margin, and (q_i, p_i)
        loss  = mean over i of - log( exp(s(q_i, p_i) / t) / sum over kept of exp(s(u) / t) )

    It is >= 0, and 0 where only the pair is kept. ``GISTEmbedLoss`` of sentence-transformers stays at log 3 for pairs
    of equal texts, as it tells a text's cosine with itself only by being above that of the pair, and at log 2 and more
    for rows that come twice, which are exactly as similar as their pair. Here neither is a negative.

    Args:
        model: The model that is trained.
        guide: Another model, which is not trained. Where its tokenizer differs, texts are read back from the tokens.
        temperature: t, > 0.
        margin: Larger ones refuse more; 0 refuses what is as similar as the positive, less only what is more similar.
        margin_strategy: ``"absolute"``, or ``"relative"``: margin times the size of g(q_i, p_i).
        contrast_anchors: Whether anchors are compared with anchors.
        contrast_positives: Whether positives are compared with positives.
        mini_batch_size: If given, gradients are cached, see :class:`~st_plugins.losses.ElasticLoss`.
        gather_across_devices: Whether the rows of all devices are compared.

    Inputs:
        +-------------------------------------------------+--------+
        | Columns                                         | Labels |
        +=================================================+========+
        | (anchor, positive, negative_1, ..., negative_N) | none   |
        +-------------------------------------------------+--------+

        N may be 0.

    Requirements:
        A pass of the guide over every text. Not for :class:`~st_plugins.losses.ElasticLoss`, which hands its base loss
        embeddings alone and has a ``teacher`` of its own.

    Relations:
        ``MultipleNegativesRankingLoss`` trusts every row to be a negative of every other.

    Raises:
        LossError: If the temperature is not positive, the margin no finite number, or its strategy unknown, if the
            guide shares weights with the model, or texts cannot be read back; in a batch if it has one column.

    References:
        Solatorio, *GISTEmbed*, https://arxiv.org/abs/2402.16829. Differs from it and from sentence-transformers: no
        text is compared with itself, whatever the guide says; equally similar ones are refused; any number of
        negatives.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> guide = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> loss = GuidedNegativesLoss(model, guide)
        >>> twice = [torch.eye(2), torch.eye(2)]
        >>> loss.compute_loss(twice, torch.stack(twice, dim=1)).abs()
        tensor(0.)
    """

    citation = GIST
    compute_loss_from_embeddings = None  # a loss that hands on embeddings alone refuses this one

    def __init__(
        self,
        model: SentenceTransformer,
        guide: SentenceTransformer,
        *,
        temperature: float = 0.01,
        margin: float = 0.0,
        margin_strategy: Literal["absolute", "relative"] = "absolute",
        contrast_anchors: bool = True,
        contrast_positives: bool = True,
        mini_batch_size: int | None = None,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__(model, mini_batch_size=mini_batch_size, gather_across_devices=gather_across_devices)
        check_positive(temperature=temperature)
        if not abs(margin) < float("inf"):
            raise LossError(f"margin must be a finite number, got {margin!r}.")
        if margin_strategy not in ("absolute", "relative"):
            raise LossError(f'margin_strategy must be "absolute" or "relative", got {margin_strategy!r}.')
        check_own_weights("guide", guide, model)
        self.guide = guide
        self.reads_tokens = _share_tokens(model, guide)
        if not self.reads_tokens and not hasattr(model.tokenizer, "batch_decode"):
            raise LossError(
                "guide must have the tokenizer of the model, or the model one of transformers that gives texts back, "
                f"got {type(model.tokenizer).__name__}. Take a guide with the same tokenizer."
            )
        self.tokenizer = model.tokenizer
        self.temperature = temperature
        self.margin = margin
        self.margin_strategy = margin_strategy
        self.contrast_anchors = contrast_anchors
        self.contrast_positives = contrast_positives

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Tensor:
        """The loss of one batch, a scalar; there are no ``labels``."""
        columns = list(sentence_features)
        guided = [embed_frozen(self.guide, self._for_guide(column), self.mini_batch_size) for column in columns]
        return super().forward(columns, torch.stack(guided, dim=1))

    def compute_loss(self, columns: list[Tensor], labels: Tensor | None) -> Tensor:
        """The formula.

        Args:
            columns: One tensor (B, D) per column: anchors, positives, and perhaps negatives.
            labels: The guide's embeddings of the same texts, (B, columns, D').

        Returns:
            Tensor: A scalar.
        """
        if len(columns) < 2 or labels is None:
            raise LossError(
                f"GuidedNegativesLoss must have columns (anchor, positive, negative, ...), got {len(columns)}. "
                "For single texts with classes take OrthogonalProjectionLoss or MixupContrastiveLoss."
            )
        cosines = self._pairs([F.normalize(column, dim=-1) for column in columns])  # (B, M)
        guided = self._pairs([F.normalize(column.to(columns[0]), dim=-1) for column in labels.unbind(dim=1)])  # (B, M)
        own = torch.eye(len(cosines), dtype=torch.bool, device=cosines.device)  # (B, B)
        positive = F.pad(own, (0, cosines.shape[1] - len(own)))  # (B, M)
        blocks = [~own] * (self.contrast_anchors + self.contrast_positives)
        itself = ~torch.cat([torch.ones_like(own).repeat(1, len(columns) - 1), *blocks], dim=1)  # (B, M)
        limit = guided.diagonal()[:, None]  # (B, 1)
        slack = self.margin * (limit.abs() if self.margin_strategy == "relative" else 1)
        refused = (itself | (guided >= limit - slack - _ROUNDING)) & ~positive
        scores = (cosines / self.temperature).masked_fill(refused, -torch.inf)
        return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))

    def options(self) -> dict[str, Any]:
        """See :class:`EmbeddingLoss`."""
        return {
            "temperature": self.temperature,
            "margin": self.margin,
            "margin_strategy": self.margin_strategy,
            "contrast_anchors": self.contrast_anchors,
            "contrast_positives": self.contrast_positives,
        }

    def _pairs(self, unit: list[Tensor]) -> Tensor:
        """Cosines of all pairs of each row, (B, M): its positives, negatives, anchors, positives with positives."""
        anchors, positives = unit[:2]
        blocks = [anchors @ column.T for column in unit[1:]]
        if self.contrast_anchors:
            blocks.append(anchors @ anchors.T)
        if self.contrast_positives:
            blocks.append(positives @ positives.T)
        return torch.cat(blocks, dim=1)

    def _for_guide(self, features: dict[str, Any]) -> dict[str, Any]:
        """A column as the guide reads it."""
        if self.reads_tokens:
            return features
        ids = features["input_ids"]
        if "cu_seq_lens_q" in features:  # unpadded, one text behind the other
            ids = torch.tensor_split(ids[0], features["cu_seq_lens_q"][1:-1].long().cpu())
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return batch_to_device(self.guide.preprocess(texts), self.guide.device)


def _share_tokens(model: SentenceTransformer, guide: SentenceTransformer) -> bool:
    """Whether the guide can read what the model reads: the same tokens, and no fewer of them."""
    limits = [one.max_seq_length or float("inf") for one in (model, guide)]
    return bool(model.tokenizer.get_vocab() == guide.tokenizer.get_vocab() and limits[0] <= limits[1])
