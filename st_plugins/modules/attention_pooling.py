"""Pooling that weighs each token by what it has in common with its whole text: few parameters, any model."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from st_plugins.counts import check_counts
from st_plugins.exit_criteria import masked_mean
from st_plugins.token_pooling import padded_states, pooling_mask
from st_plugins.weighted_module import WeightedModule


class AttentionPooling(WeightedModule):
    """Weighted mean of the token embeddings; low-rank bilinear forms of token and text, one per head, give the weights.

    The light choice among the poolings with weights: 2 D H r parameters. With h_t the pooled tokens of a text::

        c = mean_t h_t                                           (D,)
        s_it = sum_r (P_ir . c) (Q_ir . h_t)                     r ranks of head i
        a_i = softmax over t of s_i                              sums to 1 for each head
        e = mean_i sum_t a_it h_t                                (D,)

    e lies among the token embeddings, in their convex hull, so it is as wide as they are and what was trained on mean
    pooling can follow. Unlike mean pooling it can leave out tokens it learned to be noise; it does not see their order.
    Of a text with one pooled token it returns that token whatever the weights, and learns nothing from it.

    Args:
        embedding_dimension: D, width of the token embeddings and of the result.
        num_heads: H, sets of weights over the tokens.
        rank: r, terms of each bilinear form.
        include_prompt: False leaves the tokens of the prompt out of mean and softmax, as in
            sentence-transformers' ``Pooling``.
        starts_as_mean: True begins with P = 0, which is mean pooling exactly and still has gradients. False draws P.

    Reads: ``token_embeddings`` (B, T, D), ``attention_mask`` (B, T) 0/1, left or right padding; or flattened inputs
    with ``cu_seq_lens_q``. ``prompt_length`` without ``include_prompt``. Behind
    :class:`~st_plugins.modules.ElasticTransformer` it pools any layer.

    Writes: ``sentence_embedding`` (B, D) in the same dtype, computed in single precision at least, not normalised. A
    row without pooled tokens gives zeros.

    Raises:
        SizeError: If a size is not a positive integer.
        ShapeError: If the token embeddings are not D wide.

    References:
        Mehta et al., *Low Rank Factorization for Compact Multi-Head Self-Attention* (LAMA),
        https://arxiv.org/abs/1912.00835, with the mean as context vector. Differs: heads are averaged instead of laid
        side by side, which keeps the width and the start at the mean; scores are not squashed by tanh, under which no
        token can count more than e^2 times another; the starting values are ours.

    Example:
        >>> pooling = AttentionPooling(2, num_heads=1, rank=1)
        >>> pooling({"token_embeddings": torch.tensor([[[1.0, 0.0], [3.0, 4.0]]])})["sentence_embedding"]
        tensor([[2., 2.]], grad_fn=...)
    """

    config_keys: ClassVar[list[str]] = ["embedding_dimension", "num_heads", "rank", "include_prompt"]

    def __init__(
        self,
        embedding_dimension: int,
        *,
        num_heads: int = 8,
        rank: int = 4,
        include_prompt: bool = True,
        starts_as_mean: bool = True,
    ) -> None:
        super().__init__()
        check_counts("AttentionPooling", embedding_dimension=embedding_dimension, num_heads=num_heads, rank=rank)
        self.embedding_dimension = embedding_dimension
        self.num_heads = num_heads
        self.rank = rank
        self.include_prompt = include_prompt
        self.text_factors = nn.Parameter(torch.zeros(num_heads, rank, embedding_dimension))  # P
        self.token_factors = nn.Parameter(torch.empty(num_heads, rank, embedding_dimension))  # Q
        drawn = [self.token_factors] if starts_as_mean else [self.token_factors, self.text_factors]
        for factors in drawn:
            nn.init.normal_(factors, std=embedding_dimension**-0.5)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:  # the host's per-call options
        """Pool; see the class."""
        states = self.given_tokens(features)
        mask = pooling_mask(features, include_prompt=self.include_prompt)  # (B, T)
        tokens = padded_states(states, features, mask)  # (B, T, D)
        tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        weights = self._weights(tokens, mask)  # (B, H, T)
        pooled = (weights.mean(dim=1, keepdim=True) @ tokens).squeeze(1)  # (B, D)
        features["sentence_embedding"] = pooled.to(states.dtype)
        return features

    def _weights(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Weights (B, H, T) of tokens (B, T, D), which are zeros where the mask is."""
        text = torch.einsum("bd,hrd->bhr", masked_mean(tokens, mask), self.text_factors.to(tokens.dtype))
        directions = torch.einsum("bhr,hrd->bhd", text, self.token_factors.to(tokens.dtype))
        scores = directions @ tokens.transpose(1, 2)  # (B, H, T)
        scores = scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)
        return torch.softmax(scores, dim=-1)
