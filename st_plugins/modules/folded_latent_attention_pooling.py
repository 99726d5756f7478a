"""Latent attention pooling with its constant products multiplied out. For inference: what is folded cannot train."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from st_plugins.counts import check_counts
from st_plugins.cross_attention import CrossAttention, GatedFeedForward
from st_plugins.exit_criteria import masked_mean
from st_plugins.token_pooling import padded_states, pooling_mask
from st_plugins.weighted_module import WeightedModule


class FoldedLatentAttentionPooling(WeightedModule):
    """What :meth:`LatentAttentionPooling.fold() <st_plugins.modules.LatentAttentionPooling.fold>` returns.

    Keys and values come from parameters only, so the attention is a softmax between two matrices per head. With x a
    token embedding and Z the latents of the pooling it was folded from::

        A_h = W_q,h (LN_c(Z) W_k,h)^T / sqrt(d_h)          (D, r)
        B_h = (LN_c(Z) W_v,h) W_o,h                        (r, D)
        y = x + sum_h softmax(LN_q(x) A_h) B_h             then feed-forward layer and mean, as before

    The vectors are the same up to rounding. The attention has 2 H r D weights, and as many multiplications per token;
    before it had 4 H d_h D weights and 2 H d_h (D + r) multiplications. At NV-Embed's size (D = d_h = 4096, H = 8,
    r = 512) that is 16 and 9 times less. The feed-forward layer, 12 D^2 of both, stays as it is.

    Built by hand it is untrained and of no use. Its parameters take no gradients; keep the pooling it came from to
    train on. Save it, load it, or export it in place of that one.

    Args:
        embedding_dimension: D.
        num_latents: r.
        num_heads: H.
        include_prompt: False leaves the tokens of the prompt out of the mean.

    Reads and writes: as :class:`~st_plugins.modules.LatentAttentionPooling`.

    Raises:
        SizeError: If a size is not a positive integer.
        ShapeError: If the token embeddings are not D wide, or the mask is for other tokens.

    References:
        The pooling: NV-Embed, https://arxiv.org/abs/2405.17428. Folding it: ours.

    Example:
        >>> pooling = FoldedLatentAttentionPooling(2, num_latents=3, num_heads=1)
        >>> pooling({"token_embeddings": torch.ones(1, 4, 2)})["sentence_embedding"].shape
        torch.Size([1, 2])
    """

    config_keys: ClassVar[list[str]] = ["embedding_dimension", "num_latents", "num_heads", "include_prompt"]

    def __init__(
        self, embedding_dimension: int, *, num_latents: int = 512, num_heads: int = 8, include_prompt: bool = True
    ) -> None:
        super().__init__()
        counts = {"embedding_dimension": embedding_dimension, "num_latents": num_latents, "num_heads": num_heads}
        check_counts("FoldedLatentAttentionPooling", **counts)
        self.embedding_dimension = embedding_dimension
        self.num_latents = num_latents
        self.num_heads = num_heads
        self.include_prompt = include_prompt
        self.query_norm = nn.LayerNorm(embedding_dimension)
        self.to_scores = nn.Linear(embedding_dimension, num_heads * num_latents, bias=False)  # A_1 ... A_H
        self.to_output = nn.Linear(num_heads * num_latents, embedding_dimension, bias=False)  # B_1 ... B_H
        self.feed_forward = GatedFeedForward(embedding_dimension)
        self.requires_grad_(False)

    @torch.no_grad()
    def multiply_out(self, latents: Tensor, attention: CrossAttention) -> None:
        """Take the place of an attention to latents; its products are computed in double precision, head by head.

        Args:
            latents: Z, (r, D).
            attention: H heads over D.

        Example:
            >>> attention = CrossAttention(2, num_heads=1, head_dim=4)
            >>> FoldedLatentAttentionPooling(2, num_latents=3, num_heads=1).multiply_out(torch.ones(3, 2), attention)
        """
        self.query_norm.load_state_dict(attention.query_norm.state_dict())
        context = attention.context_norm(latents).double()  # (r, D)
        heads = zip(
            attention.to_queries.weight.split(attention.head_dim),  # H times (d_h, D)
            attention.to_keys.weight.split(attention.head_dim),
            attention.to_values.weight.split(attention.head_dim),
            attention.to_output.weight.split(attention.head_dim, dim=1),  # H times (D, d_h)
            self.to_scores.weight.split(self.num_latents),  # H times (r, D)
            self.to_output.weight.split(self.num_latents, dim=1),  # H times (D, r)
            strict=True,
        )
        for queries, keys, values, output, scores, read in heads:
            scores.copy_(context @ keys.double().T @ queries.double() / attention.head_dim**0.5)
            read.copy_(output.double() @ (context @ values.double().T).T)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:  # the host's per-call options
        """Pool; see the class."""
        tokens = self.given_tokens(features)  # (B, T, D), or (1, all tokens, D) where flattened
        mask = pooling_mask(features, include_prompt=self.include_prompt)  # (B, T)
        states = padded_states(self.feed_forward(self.attend(tokens)), features, mask)  # (B, T, D)
        features["sentence_embedding"] = masked_mean(states, mask).to(tokens.dtype)
        return features

    def attend(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T, D) and what each read from the latents, as a sum y (B, T, D); see the class."""
        scores = self.to_scores(self.query_norm(tokens)).unflatten(-1, (self.num_heads, self.num_latents))
        single = torch.promote_types(scores.dtype, torch.float32)
        weights = torch.softmax(scores, dim=-1, dtype=single).to(tokens.dtype)  # (B, T, H, r)
        return tokens + self.to_output(weights.flatten(-2))
