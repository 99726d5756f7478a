"""Anchors mixed in pairs inside the encoder, each partly a positive of two texts (MI-Mix). Experimental."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import Tensor, nn

from st_plugins.block_inputs import changing_view
from st_plugins.blocks import find_blocks
from st_plugins.errors import LossError, UnsupportedModelError
from st_plugins.first_modules import unwrapped
from st_plugins.losses.batch_checks import check_comparison, check_numbers
from st_plugins.losses.citations import MANIFOLD_INSTANCE_MIXUP
from st_plugins.losses.layers import check_positive
from st_plugins.modules import ElasticTransformer
from st_plugins.views import shallow_copy


class ManifoldInstanceMixupLoss(nn.Module):
    """A contrastive loss whose anchors are mixtures of two texts, made before a random block of the encoder.

    Experimental, it may change. In a short training (``benchmarks/losses.py``) mixing gained nothing, and the same loss
    with ``mixing=False`` was well ahead of the plain ranking loss.

    Of B pairs, every anchor gets a partner, by a permutation pi of the batch, a block in front of which they are mixed,
    the same for all, and a share, from Beta(mix_alpha, mix_alpha) and never below a half::

        h_i := share_i h_i + (1 - share_i) h_pi(i)         before the block; tokens count where both texts have one

    With s_ij the cosine of mixture i and positive j over the temperature, negatives weighted by how hard they are::

        n_i  = sum over j != i of w_ij exp(s_ij)           w_ij = exp(s_ij) / mean over j != i of exp(s_ij)
        c_ij = s_ij - log(n_i + exp(s_ii))
        loss = - mean over i of share_i c_ii + (1 - share_i) c_i,pi(i)

    With ``mixing=False`` it is the same without mixtures, of anchors and positives among each other, 2 B texts with 2 B
    - 2 negatives each: what the paper trains with for the first third, before it mixes.

    Everything drawn comes from torch's generator, so values differ from one call to the next.
    :class:`~st_plugins.losses.MixupContrastiveLoss` mixes embeddings, which takes no further pass and any model.

    Args:
        model: The model that is trained. It begins with a ``Transformer``, elastic or not, with padded inputs.
        mixing: Whether anchors are mixed.
        temperature: > 0.
        mix_alpha: > 0. At 1 all shares are equally likely.

    Inputs:
        +--------------------+--------+
        | Columns            | Labels |
        +====================+========+
        | (anchor, positive) | none   |
        +--------------------+--------+

    Requirements:
        Memory and time for one more pass over the anchors up to the block. Gradients are not cached and texts of other
        devices not gathered, since a mixture needs the states of both of its texts at once; one process.

    Raises:
        LossError: If an option is out of range, a batch is not two columns without labels, or another loss has replaced
            the model's forward; in training if the first batch has one pair only, or embeddings or loss are NaN.
        UnsupportedModelError: If the model does not begin with a ``Transformer``, its inputs are flattened, or one
            block serves every layer (ALBERT).

    References:
        Zhou et al., *DNABERT-S: Pioneering Species Differentiation with Species-Aware DNA Embeddings*,
        https://arxiv.org/abs/2402.08777: MI-Mix and, without mixing, its weighted contrastive loss. Differs: no head is
        trained and dropped; add a ``Dense`` if you want one.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> loss = ManifoldInstanceMixupLoss(model)
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=pairs, loss=loss)
    """

    citation = MANIFOLD_INSTANCE_MIXUP

    def __init__(
        self, model: SentenceTransformer, *, mixing: bool = True, temperature: float = 0.05, mix_alpha: float = 1.0
    ) -> None:
        super().__init__()
        check_positive(temperature=temperature, mix_alpha=mix_alpha)
        first = unwrapped(model)[0]
        if not isinstance(first, Transformer):
            raise UnsupportedModelError(
                "The model must begin with a Transformer, in whose layers texts are mixed, got one that begins with "
                f"{type(first).__name__}. Take MixupContrastiveLoss, which mixes embeddings."
            )
        self.model = model
        self.mixing = mixing
        self.temperature = temperature
        self.mix_alpha = mix_alpha
        self._has_seen_a_batch = False

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Tensor:
        """The loss of one batch, a scalar; there are no ``labels``."""
        columns = [dict(features) for features in sentence_features]
        if len(columns) != 2 or labels is not None:
            raise LossError(
                "ManifoldInstanceMixupLoss must have two columns, anchors and positives, without labels, got "
                f"{len(columns)} columns {'without' if labels is None else 'with'} labels. Remove the other columns."
            )
        positives = self.model(columns[1])["sentence_embedding"]
        if self.mixing:
            partners, shares = self._draw(positives)
            index = int(torch.randint(find_blocks(unwrapped(self.model)[0].model).depth, ()))
            anchors = mixed_embeddings(self.model, columns[0], index, partners, shares)
        else:
            anchors = self.model(columns[0])["sentence_embedding"]
        check_numbers("The embeddings", [anchors, positives])
        dtype = torch.promote_types(positives.dtype, torch.float32)
        with torch.autocast(positives.device.type, enabled=False):
            first, second = anchors.to(dtype), positives.to(dtype)
            if self.mixing:
                value = mixed_contrastive(first, second, partners, shares.to(dtype), self.temperature)
            else:
                value = weighted_contrastive(first, second, self.temperature)
        check_numbers("The loss", [value])
        if not self._has_seen_a_batch:
            check_comparison(type(self).__name__, len(positives), value)
            self._has_seen_a_batch = True
        return value

    def _draw(self, positives: Tensor) -> tuple[Tensor, Tensor]:
        """Partners (B,) and shares (B,)."""
        rows, device = len(positives), positives.device
        shares = torch.distributions.Beta(self.mix_alpha, self.mix_alpha).sample((rows,)).to(device)
        return torch.randperm(rows).to(device), torch.maximum(shares, 1 - shares)

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says about the training."""
        return {"mixing": self.mixing, "temperature": self.temperature, "mix_alpha": self.mix_alpha}


def mixed_embeddings(
    model: nn.Module, features: dict[str, Any], index: int, partners: Tensor, shares: Tensor
) -> Tensor:
    """Embeddings (B, D) of texts mixed in front of block ``index``, counted from 0.

    Args:
        model: As :class:`ManifoldInstanceMixupLoss` wants it; it stays as it is.
        features: Of B texts.
        index: From 0, where what the blocks start from is mixed, to L - 1.
        partners: (B,) the row that each row is mixed with.
        shares: (B,) how much of each row stays.
    """
    if "cu_seq_lens_q" in features or "attention_mask" not in features:
        raise UnsupportedModelError(
            "Mixing texts needs padded inputs with their attention mask, got flattened (unpadded) ones. "
            "Set model[0].unpad_inputs = False for training."
        )
    whole = unwrapped(model)
    first: Any = whole[0]
    if any(getattr(module.forward, "__self__", None) is not module for module in (whole, first)):
        raise LossError(
            "ManifoldInstanceMixupLoss must call the model itself, got one whose forward another loss has replaced, as "
            "MatryoshkaLoss and AdaptiveLayerLoss do. Train without it around this loss."
        )
    caught: list[Tensor] = []

    def catch(states: Tensor) -> Tensor:
        caught.append(states)
        return states.detach()

    def mix(_: Tensor) -> Tensor:
        share = shares.to(caught[0])[:, None, None]  # (B, 1, 1)
        return share * caught[0] + (1 - share) * caught[0][partners]  # (B, T, D)

    # An elastic one would ask for a layer that it was trained for.
    run = Transformer.forward if isinstance(first, ElasticTransformer) else type(first).forward
    run(shallow_copy(first, model=changing_view(first.model, index, catch, index + 1)), dict(features))
    mask = features["attention_mask"]
    mixing = shallow_copy(first, model=changing_view(first.model, index, mix))
    name = next(iter(whole._modules))
    mixed: Any = shallow_copy(whole, **{name: mixing})
    return mixed({**features, "attention_mask": mask * mask[partners]})["sentence_embedding"]


def mixed_contrastive(first: Tensor, second: Tensor, partners: Tensor, shares: Tensor, temperature: float) -> Tensor:
    """The loss of mixtures (B, D) and positives (B, D), see :class:`ManifoldInstanceMixupLoss`.

    Example:
        >>> partners, shares = torch.tensor([1, 0]), torch.tensor([1.0, 1.0])
        >>> mixed_contrastive(torch.eye(2), torch.eye(2), partners, shares, temperature=1.0)  # log(1 + 1 / e)
        tensor(0.3133)
    """
    scores = F.normalize(first, dim=1) @ F.normalize(second, dim=1).T / temperature  # (B, B)
    if len(scores) == 1:
        return scores.sum() * 0
    own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    positive = scores.diagonal()
    denominator = torch.logaddexp(log_weighted_sum(scores, ~own), positive)  # (B,)
    other = scores.gather(1, partners[:, None])[:, 0]
    return (denominator - shares * positive - (1 - shares) * other).mean()


def weighted_contrastive(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The loss without mixtures of both sides of pairs, (B, D) each, see :class:`ManifoldInstanceMixupLoss`.

    Example:
        >>> weighted_contrastive(torch.eye(2), torch.eye(2), temperature=1.0)  # log(1 + 2 / e)
        tensor(0.5514)
    """
    texts = F.normalize(torch.cat([first, second]), dim=1)
    scores = texts @ texts.T / temperature  # (2 B, 2 B)
    if len(scores) == 2:
        return scores.sum() * 0
    rows = torch.arange(len(scores), device=scores.device)
    other = rows.roll(len(first))
    positive = scores[rows, other]
    is_negative = (rows[:, None] != rows) & (other[:, None] != rows)
    return (torch.logaddexp(log_weighted_sum(scores, is_negative), positive) - positive).mean()


def log_weighted_sum(scores: Tensor, is_negative: Tensor) -> Tensor:
    """Log of n_i, with weights that carry gradients as in the authors' code: (N, M) to (N,).

    With m negatives, n = m (sum of exp(2 s)) / (sum of exp(s)); never below the plain sum of exp(s), and equal to it
    where all s are equal.

    Example:
        >>> log_weighted_sum(torch.tensor([[0.0, 0.0, 9.0]]), torch.tensor([[True, True, False]])).exp()
        tensor([2.])
    """
    kept = scores.masked_fill(~is_negative, -torch.inf)
    count = is_negative.sum(dim=1).to(scores)
    return count.log() + (2 * kept).logsumexp(dim=1) - kept.logsumexp(dim=1)
