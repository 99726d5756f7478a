"""How likely a decoder finds passages after their queries, with causal attention even if it embeds without.

It reads given tokens; it samples none, and knows nothing of embeddings or losses.
"""

from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from st_plugins.blocks import find_blocks
from st_plugins.errors import LossError, UnsupportedModelError
from st_plugins.modes import evaluating
from st_plugins.special_tokens import tokens_around
from st_plugins.unmasking import CONFIG_UNMASKS, is_unmasked

# Logits of so many tokens exist at a time: half a gigabyte in float32 with a vocabulary of 128k.
_TOKENS_AT_ONCE = 1024
# By which some families multiply or divide the logits behind their head.
_LOGIT_FACTORS = ("logits_scaling", "logit_scale", "lm_head_multiplier", "output_multiplier")
# Without influence the change is 0.
_MOST_CHANGE = 1e-5


def passage_log_probs(
    transformer: Transformer, queries: dict[str, Any], passages: dict[str, Any], head: nn.Module | None
) -> list[Tensor]:
    """Log-probabilities of the tokens of passages, each read after its query under the causal mask.

    Query and passage are joined as token ids, without padding, and without what the tokenizer puts behind the query and
    before the passage, for instance a second beginning-of-text token. What it puts behind the passage is scored with
    it, and so is a prompt of the passage. With h_t the final state of token t, E the head, cap that of the family::

        logits = cap * tanh(E h_t-1 / cap)                      E h_t-1 without a cap, or with a head of one's own
        log pi(w_t | q, w_1 ... w_t-1) = logits[w_t] - logsumexp(logits)

    Args:
        transformer: A module that :func:`check_generation` accepts.
        queries: A column of B texts padded on any side, with ``input_ids`` and ``attention_mask`` (B, T).
        passages: Another.
        head: Any module from final states (M, D) to finished logits (M, V), for instance
            ``AutoModelForCausalLM.from_pretrained(...).lm_head``, or None for the matrix of input embeddings.

    Returns:
        list[Tensor]: For each row the n tokens of its passage, (n,), <= 0, float32 or wider, with gradients.

    Raises:
        LossError: If a query or a passage has no token, both together have more than the model has positions, or the
            head lacks a token.

    Example:
        >>> from transformers import GPT2Config, GPT2Model
        >>> bert = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> _ = bert.tokenizer.save_pretrained("tiny-gpt2")
        >>> GPT2Model(GPT2Config(vocab_size=30522, n_embd=32, n_layer=2, n_head=4)).save_pretrained("tiny-gpt2")
        >>> decoder = SentenceTransformer("tiny-gpt2")[0]
        >>> texts = [decoder.preprocess(["a question"]), decoder.preprocess(["one answer"])]
        >>> [row.shape for row in passage_log_probs(decoder, *texts, head=None)]  # "one", "answer", "[SEP]"
        [torch.Size([3])]
    """
    before, behind = tokens_around(transformer.tokenizer)
    contexts = [row[: len(row) - behind] for row in _texts(queries)]
    targets = [row[before:] for row in _texts(passages)]
    _check_lengths(contexts, targets, getattr(transformer.model.config, "max_position_embeddings", None))
    rows = [torch.tensor([*context, *target]) for context, target in zip(contexts, targets, strict=True)]
    device = queries["input_ids"].device
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)  # (B, T), padded right
    starts = torch.tensor([len(context) for context in contexts], device=device)[:, None]  # (B, 1)
    ends = torch.tensor([len(row) for row in rows], device=device)[:, None]  # (B, 1)
    positions = torch.arange(ids.shape[1], device=device)  # (T,)
    states = _causal_states(transformer.model, ids, (positions < ends).long())  # (B, T, D)
    # The state of a token tells of the next one.
    scored = (positions[1:] >= starts) & (positions[1:] < ends)  # (B, T - 1)
    before_tokens, tokens = states[:, :-1][scored], ids[:, 1:][scored]  # (M, D), (M,)
    chunks = zip(before_tokens.split(_TOKENS_AT_ONCE), tokens.split(_TOKENS_AT_ONCE), strict=True)
    top = max(max(row) for row in targets)
    # Logits are made again for the gradient: kept, they would be most of the memory.
    scores = [checkpoint(_chunk, transformer.model, head, *chunk, top, use_reentrant=False) for chunk in chunks]
    return list(torch.cat(scores).split([len(target) for target in targets]))


def check_generation(model: SentenceTransformer, head: nn.Module | None) -> None:
    """Refuse a model that cannot be asked how likely a passage is.

    Whether its attention is causal is tried: the last token of a short text is changed, and nothing before may change.

    Args:
        model: A model, left as it is.
        head: As for :func:`passage_log_probs`.

    Raises:
        UnsupportedModelError: If its first module is no ``Transformer``, or holds no decoder; if no head was given and
            the matrix of input embeddings is not the whole head.
        LossError: If the head is no module, or has parameters that ask for gradients and are not the model's.
    """
    transformer = model[0]
    if not isinstance(transformer, Transformer):
        raise UnsupportedModelError(
            f"The first module must be a Transformer around a decoder, got {type(transformer).__name__}. "
            "Only a decoder generates."
        )
    _check_causal(transformer.model)
    if head is None:
        _check_tied(transformer.model)
        return
    if not isinstance(head, nn.Module):
        raise LossError(
            f"head must be a module from states to logits, got {type(head).__name__}. "
            "Give AutoModelForCausalLM.from_pretrained(...).lm_head itself, not its weight."
        )
    own = {id(parameter) for parameter in model.parameters()}
    if any(parameter.requires_grad and id(parameter) not in own for parameter in head.parameters()):
        raise LossError(
            f"The head must be frozen, because it is not saved with the model, but parameters of {type(head).__name__} "
            "ask for gradients. Call head.requires_grad_(False)."
        )


def _check_causal(network: Any) -> None:
    ids = torch.randperm(network.get_input_embeddings().weight.shape[0], generator=torch.Generator().manual_seed(0))
    texts = torch.stack([ids[:6], torch.cat([ids[:5], ids[6:7]])]).to(network.device)
    with torch.no_grad(), evaluating(network):
        first, second = _causal_states(network, texts, torch.ones_like(texts))
    change = float((first - second)[:-1].abs().max() / first.abs().max().clamp_min(1e-9))
    if not change <= _MOST_CHANGE:
        raise UnsupportedModelError(
            f"The model must be a decoder, whose tokens see only what came before them; the tokens of "
            f"{type(network).__name__} see later ones (relative change {change:.1e}), so it cannot generate. "
            "Start from a Llama, Mistral, Qwen, Gemma or another decoder."
        )


def _check_tied(network: Any) -> None:
    name, config = type(network).__name__, network.config
    if not getattr(config, "tie_word_embeddings", False):
        raise UnsupportedModelError(
            f"Without a head the input embeddings must be the head as well, but the configuration of {name} says "
            "tie_word_embeddings=False. Give head=AutoModelForCausalLM.from_pretrained(...).lm_head, frozen."
        )
    if find_blocks(network).norm is None:
        raise UnsupportedModelError(
            f"Without a head the input embeddings must be all of it, but that of {name} transforms the states first. "
            "Give the whole head of its language model, frozen."
        )
    for factor in _LOGIT_FACTORS:
        value = getattr(config, factor, None)
        if value not in (None, 1):
            raise UnsupportedModelError(
                f"Without a head the logits must be the products with the input embeddings, but {name} has "
                f"{factor}={value}. Give a head that returns the scaled logits, frozen."
            )


def _texts(column: dict[str, Any]) -> list[list[int]]:
    """The token ids of a column without its padding."""
    pairs = zip(column["input_ids"].tolist(), column["attention_mask"].tolist(), strict=True)
    return [[token for token, is_text in zip(ids, mask, strict=True) if is_text] for ids, mask in pairs]


def _check_lengths(contexts: list[list[int]], targets: list[list[int]], limit: int | None) -> None:
    if not all(contexts) or not all(targets):
        raise LossError("Every query and every passage must have a token, got one without. Filter out empty texts.")
    longest = max(len(context) + len(target) for context, target in zip(contexts, targets, strict=True))
    if limit is not None and longest > limit:
        raise LossError(
            f"A query and a passage together must have at most {limit} tokens, the positions of the model, got "
            f"{longest}. Set model.max_seq_length to {limit // 2} or less."
        )


def _causal_states(network: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Final token states (B, T, D) under the causal mask, whatever mask the network embeds with."""
    inputs = {"input_ids": ids, "attention_mask": mask}
    if not is_unmasked(network):
        return network(**inputs)[0]
    if CONFIG_UNMASKS:
        return network(**inputs, is_causal=True)[0]
    return super(type(network), network).forward(**inputs)[0]  # past the subclass that un-masks


def _chunk(network: Any, head: nn.Module | None, states: Tensor, tokens: Tensor, top: int) -> Tensor:
    """Log-probabilities (M,) of tokens (M,), each from the state (M, D) before it; ``top`` is the largest of all."""
    if head is not None:
        logits = head(states)  # (M, V)
    else:
        logits = F.linear(states, network.get_input_embeddings().weight)
        cap = getattr(network.config, "final_logit_softcapping", None)  # Gemma
        logits = logits if cap is None else torch.tanh(logits / cap) * cap
    if top >= logits.shape[-1]:
        raise LossError(
            f"The head must have a logit for every token, got {logits.shape[-1]} logits and token {top}. "
            "Take the head of the model's own language model."
        )
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return -F.cross_entropy(precise, tokens, reduction="none")
