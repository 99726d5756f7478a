"""Generation-augmented representation learning (GRL): a decoder's embeddings learn to rank as its own generation does.

It trains a decoder as it is, causal or un-masked; it does not un-mask one, and it generates no text.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses import uses_gradient_cache
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import Tensor, nn

from st_plugins.errors import LossError
from st_plugins.first_modules import unwrapped
from st_plugins.losses.batch_checks import check_first_batch, check_numbers
from st_plugins.losses.citations import GENERATION_RETRIEVAL
from st_plugins.losses.generation import check_generation, passage_log_probs
from st_plugins.losses.layers import check_base_loss, check_options, precisely, task_loss


class GenerationRetrievalLoss(nn.Module):
    """A contrastive loss, a preference for generating the positive, and agreement of the two rankings (GRL).

    With q a query, U its candidates (the positive p+ and its own N negatives p-), e the embeddings of the model and pi
    what its network generates with causal attention, w_1 ... w_n the tokens of p::

        log pi(p | q) = sum_t log pi(w_t | q, w_1 ... w_t-1)                            sum over the passage's tokens
        L_CL   = base loss of the embeddings
        L_DPO  = mean over q and p- of -log sigmoid(beta * (log pi(p+ | q) - log pi(p- | q)))
        P_rt   = softmax over U of cos(e_q, e_p) / temperature
        P_gen  = softmax over U of log pi(p | q) / n                                    no gradient
        L_KL   = mean over q of sum over p in U of P_rt(p) * log(P_rt(p) / P_gen(p))    >= 0; 0 when they agree
        loss   = cl_weight * L_CL + preference_weight * L_DPO + kl_weight * L_KL

    L_DPO trains generation alone, L_CL and L_KL the embeddings alone; they meet in the weights.

    Args:
        model: A model that starts with a ``Transformer`` around a decoder; with
            :func:`st_plugins.bidirectional_attention.bidirectional` or without.
        loss: The base loss, built on the same model; any with ``compute_loss_from_embeddings``. None takes
            ``MultipleNegativesRankingLoss(model)``, whose scale of 20 is the authors' temperature.
        head: The language-model head, which sentence-transformers does not load, see
            :func:`~st_plugins.losses.generation.passage_log_probs`. It has to be frozen, because it is not saved with
            the model. None takes the matrix of input embeddings, for models that tie the two: Gemma, SmolLM3 and small
            Qwen do, the paper's Mistral 7B, Llama 3 8B and Phi 1.5 do not.
        cl_weight: Factor of L_CL, >= 0.
        preference_weight: Factor of L_DPO, >= 0.
        kl_weight: Factor of L_KL, >= 0.
        beta: > 0; small values forgive a passage that is likelier than the positive.
        temperature: Divides the cosines of L_KL, > 0; they are in [-1, 1], so that 1 would make P_rt nearly uniform.

    Inputs:
        +------------------------------------------------------+--------+
        | Texts                                                | Labels |
        +======================================================+========+
        | (anchor, positive, negative_1, ..., negative_N)      | none   |
        +------------------------------------------------------+--------+

    Requirements:
        Positives and negatives of similar lengths: L_DPO compares sums, so that a positive much longer than a negative
        starts far behind. Memory for one more pass over each query with each of its candidates; logits are made 1024
        tokens at a time, and again for the gradient. Gradients are not cached: nothing here takes a
        ``mini_batch_size``. Wrappers that split the weights themselves over machines (FSDP) are not supported, as
        generation runs beside the wrapper.

    Relations:
        Without generation, ``MultipleNegativesRankingLoss`` alone is the first thing to try.

    Raises:
        UnsupportedModelError: If the first module holds no decoder, or no head was given and its embeddings are not the
            head.
        LossError: If the base loss has no embedding interface or caches gradients, the head can be trained, or an
            option is out of range; in a batch, if it has fewer than three columns, unpadded ones, a query or passage
            without tokens, one too long for the model, or values that are not numbers.

    References:
        Man et al., *ULLME: A Unified Framework for Large Language Model Embeddings with Generation-Augmented Learning*,
        https://arxiv.org/abs/2408.03402. The direction of L_KL is the paper's; the authors' code computes the opposite,
        sum of P_gen log(P_gen / P_rt). Its scores are the code's: cosines over a temperature, means without one and
        detached. Differs from the code: L_CL there is NTXent on minus the Euclidean distance, of a projection of the
        embeddings; log pi there runs over query and instruction as well, which cancels in L_DPO but not in the means;
        it has a template around query and passage; L_DPO there is of the first negative alone; NaN there counts as 0.

    Example:
        >>> from transformers import LlamaConfig, LlamaModel
        >>> bert = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> _ = bert.tokenizer.save_pretrained("tiny-llama")
        >>> sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        >>> LlamaModel(LlamaConfig(vocab_size=30522, tie_word_embeddings=True, **sizes)).save_pretrained("tiny-llama")
        >>> model = SentenceTransformer("tiny-llama")
        >>> loss = GenerationRetrievalLoss(model)
        >>> triplets = pairs.add_column("negative", ["e", "f"])
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=triplets, loss=loss)
    """

    citation = GENERATION_RETRIEVAL
    uses_gradient_cache = False

    def __init__(
        self,
        model: SentenceTransformer,
        loss: nn.Module | None = None,
        *,
        head: nn.Module | None = None,
        cl_weight: float = 1.0,
        preference_weight: float = 1.0,
        kl_weight: float = 1.0,
        beta: float = 0.1,
        temperature: float = 0.05,
    ) -> None:
        super().__init__()
        weights = {"cl_weight": cl_weight, "preference_weight": preference_weight, "kl_weight": kl_weight}
        check_options(mini_batch_size=None, temperature=temperature, **weights)
        if not 0 < beta < float("inf"):
            raise LossError(f"beta must be a number > 0, got {beta!r}.")
        check_generation(model, head)
        self.model = model
        self.loss = MultipleNegativesRankingLoss(model) if loss is None else loss
        self.head = head
        self.beta = beta
        self.temperature = temperature
        self.weights = weights
        self._has_seen_a_batch = False
        if uses_gradient_cache(self.loss):
            raise LossError(
                f"The base loss must not cache gradients, got {type(loss).__name__}: generation needs the whole graph. "
                "Pass its plain form."
            )
        check_base_loss(self.loss)

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> dict[str, Tensor]:
        """The weighted parts of the loss of one batch: ``contrastive``, ``preference`` and ``kl``, three scalars.

        sentence-transformers adds them up, and logs each.
        """
        columns = list(sentence_features)
        _check_columns(columns)
        embeddings = [self.model(dict(column))["sentence_embedding"] for column in columns]
        check_numbers("The embeddings", embeddings)
        if not self._has_seen_a_batch:
            precisely(lambda exact: check_first_batch(self.loss, exact, labels), embeddings)
            self._has_seen_a_batch = True
        transformer = unwrapped(self.model)[0]
        generated = [passage_log_probs(transformer, columns[0], passages, self.head) for passages in columns[1:]]
        sums = torch.stack([torch.stack([row.sum() for row in rows]) for rows in generated], dim=1)  # (B, 1 + N)
        means = torch.stack([torch.stack([row.mean() for row in rows]) for rows in generated], dim=1)  # (B, 1 + N)
        cosines = precisely(_cosines, embeddings)  # (B, 1 + N)
        contrastive = precisely(lambda exact: task_loss(self.loss, exact, labels), embeddings)
        parts = {
            "contrastive": self.weights["cl_weight"] * contrastive,
            "preference": self.weights["preference_weight"] * preference_loss(sums, self.beta),
            "kl": self.weights["kl_weight"] * ranking_divergence(cosines, means, self.temperature),
        }
        check_numbers("The loss", list(parts.values()))
        return parts

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says about the training."""
        return {
            "loss": type(self.loss).__name__,
            "head": "tied" if self.head is None else type(self.head).__name__,
            **self.weights,
            "beta": self.beta,
            "temperature": self.temperature,
        }


def _cosines(columns: list[Tensor]) -> Tensor:
    """Of each query with its own candidates, (B, U)."""
    query, *candidates = (F.normalize(column, dim=-1) for column in columns)
    return torch.stack([(query * column).sum(dim=-1) for column in candidates], dim=1)


def preference_loss(log_probs: Tensor, beta: float) -> Tensor:
    """Direct preference optimisation without a reference model: the positive shall be likelier than each negative.

    With s_0 the positive's log-probability and s_1 ... s_N those of the negatives::

        loss = mean over rows and j of -log sigmoid(beta * (s_0 - s_j))         > 0; log 2 when all are equal

    Args:
        log_probs: (B, 1 + N), the positive first.
        beta: > 0.

    Returns:
        Tensor: A scalar.

    References:
        Rafailov et al., *Direct Preference Optimization*, https://arxiv.org/abs/2305.18290, equation 7, with a uniform
        reference model.

    Example:
        >>> preference_loss(torch.tensor([[-1.0, -1.0]]), beta=0.1)
        tensor(0.6931)
    """
    return -F.logsigmoid(beta * (log_probs[:, :1] - log_probs[:, 1:])).mean()


def ranking_divergence(cosines: Tensor, generation: Tensor, temperature: float) -> Tensor:
    """How far the ranking by embeddings is from the one by generation, KL(P_rt || P_gen).

    Args:
        cosines: (B, U), of each query with its candidates; these get the gradient.
        generation: (B, U), mean log-probabilities of the candidates' tokens; detached here.
        temperature: Divides the cosines; > 0.

    Returns:
        Tensor: A scalar >= 0; 0 when the distributions agree.

    References:
        See :class:`GenerationRetrievalLoss`. :func:`st_plugins.functional.distribution_loss` is the other direction.

    Example:
        >>> ranking_divergence(torch.tensor([[0.2, 0.1]]), torch.tensor([[-3.0, -4.0]]), temperature=0.1)
        tensor(0.)
    """
    retrieval = F.log_softmax(cosines / temperature, dim=-1)  # (B, U)
    target = F.log_softmax(generation.detach(), dim=-1)  # (B, U)
    return (retrieval.exp() * (retrieval - target)).sum(dim=-1).mean()


def _check_columns(columns: list[dict[str, Any]]) -> None:
    if len(columns) < 3:
        raise LossError(
            f"The batch must have an anchor, a positive and at least one negative, got {len(columns)} text columns. "
            "Add negatives with sentence_transformers.util.mine_hard_negatives."
        )
    for column in columns:
        ids, mask = column.get("input_ids"), column.get("attention_mask")
        if ids is None or mask is None or ids.ndim != 2 or mask.shape != ids.shape:
            raise LossError(
                "Every column must be padded token ids with their attention mask, both (B, T), got a column of "
                f"{', '.join(sorted(column))}. Load the model without unpad_inputs, and use the trainer's own collator."
            )
