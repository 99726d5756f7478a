"""NV-Embed's pooling: every token reads a learned table of latents, then the tokens are averaged. Not folded."""

from typing import Any, ClassVar

import torch
from torch import nn

from st_plugins.counts import check_counts
from st_plugins.cross_attention import CrossAttention, GatedFeedForward
from st_plugins.exit_criteria import masked_mean
from st_plugins.modules.folded_latent_attention_pooling import FoldedLatentAttentionPooling
from st_plugins.token_pooling import padded_states, pooling_mask
from st_plugins.weighted_module import WeightedModule


class LatentAttentionPooling(WeightedModule):
    """Mean of the token embeddings after each has attended to r learned latents and passed a feed-forward layer.

    It sees no order and mixes no tokens: only the mean brings them together. The width stays. With x a token embedding,
    Z the latents, p 1 for pooled tokens and 0 for the others::

        q, k, v = LN_q(x) W_q, LN_c(Z) W_k, LN_c(Z) W_v          H heads of d_h each, no biases
        y = x + concat_h(softmax(q_h k_h^T / sqrt(d_h)) v_h) W_o
        [a, g] = LN_f(y) W_1 + b_1                               W_1: D to 8 D, in two halves
        z = y + (a * GELU(g)) W_2 + b_2                          exact GELU, W_2: 4 D to D
        e = sum_n p_n z_n / sum_n p_n                            (B, D)

    Parameters: r D + 4 H d_h D + 6 D in the attention, 12 D^2 + 9 D in the feed-forward layer.

    Args:
        embedding_dimension: D, width of the token embeddings, of the latents and of the result.
        num_latents: r. They start as standard normal numbers.
        num_heads: H.
        head_dim: d_h, or None for D as in NV-Embed, where the heads together are H times as wide as the tokens.
        include_prompt: False leaves the tokens of the prompt out of the mean, as in sentence-transformers' ``Pooling``;
            its ``model.set_pooling_include_prompt`` does not reach this module.
        starts_as_mean: True begins with W_o, W_2 and b_2 zero, which is mean pooling exactly: right for grafting it on
            a trained model. In the first step only these three learn.

    Reads: ``token_embeddings`` (B, T, D), ``attention_mask`` (B, T) 0/1, left or right padding; or flattened inputs
    with ``cu_seq_lens_q``. ``prompt_length`` without ``include_prompt``. Behind
    :class:`~st_plugins.modules.ElasticTransformer` it pools any layer.

    Writes: ``sentence_embedding`` (B, D) in the same dtype, not normalised: sentence-transformers' ``Normalize`` goes
    behind it, as NV-Embed's vectors have unit length. Softmax and mean are taken in single precision at least. A row
    without pooled tokens gives zeros.

    Raises:
        SizeError: If a size is not a positive integer.
        ShapeError: If the token embeddings are not D wide, or the mask is for other tokens.

    References:
        Lee et al., *NV-Embed*, https://arxiv.org/abs/2405.17428, section 3.1, as its published code computes it. The
        paper's equation 1 has no projections, no scale and no norms. Differs: half precision is accumulated in single
        precision, and an empty mask gives zeros where the code divides by zero.

    Example:
        >>> pooling = LatentAttentionPooling(2, num_latents=3, num_heads=1, starts_as_mean=True)
        >>> pooling({"token_embeddings": torch.tensor([[[1.0, 0.0], [3.0, 4.0]]])})["sentence_embedding"]
        tensor([[2., 2.]], grad_fn=...)
    """

    config_keys: ClassVar[list[str]] = ["embedding_dimension", "num_latents", "num_heads", "head_dim", "include_prompt"]

    def __init__(
        self,
        embedding_dimension: int,
        *,
        num_latents: int = 512,
        num_heads: int = 8,
        head_dim: int | None = None,
        include_prompt: bool = True,
        starts_as_mean: bool = False,
    ) -> None:
        super().__init__()
        head_dim = embedding_dimension if head_dim is None else head_dim
        counts = {
            "embedding_dimension": embedding_dimension,
            "num_latents": num_latents,
            "num_heads": num_heads,
            "head_dim": head_dim,
        }
        check_counts("LatentAttentionPooling", **counts)
        self.embedding_dimension = embedding_dimension
        self.num_latents = num_latents
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.include_prompt = include_prompt
        self.latents = nn.Parameter(torch.randn(num_latents, embedding_dimension))
        self.cross_attention = CrossAttention(embedding_dimension, num_heads=num_heads, head_dim=head_dim)
        self.feed_forward = GatedFeedForward(embedding_dimension)
        if starts_as_mean:
            last = self.feed_forward.contract
            for parameter in (self.cross_attention.to_output.weight, last.weight, last.bias):
                nn.init.zeros_(parameter)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:  # the host's per-call options
        """Pool; see the class."""
        tokens = self.given_tokens(features)  # (B, T, D), or (1, all tokens, D) where flattened
        mask = pooling_mask(features, include_prompt=self.include_prompt)  # (B, T)
        states = self.feed_forward(self.cross_attention(tokens, self.latents[None]))
        states = padded_states(states, features, mask)  # (B, T, D)
        features["sentence_embedding"] = masked_mean(states, mask).to(tokens.dtype)
        return features

    def fold(self) -> FoldedLatentAttentionPooling:
        """The same pooling with its constant products multiplied out, for inference: smaller and faster, not trainable.

        Returns:
            FoldedLatentAttentionPooling: With weights of its own, so that training this one further does not change it.

        Example:
            >>> pooling = LatentAttentionPooling(2, num_latents=3)
            >>> features = {"token_embeddings": torch.tensor([[[1.0, 0.0], [3.0, 4.0]]])}
            >>> folded = pooling.fold()(dict(features))["sentence_embedding"]
            >>> torch.allclose(folded, pooling(features)["sentence_embedding"], atol=1e-6)
            True
        """
        folded = FoldedLatentAttentionPooling(
            self.embedding_dimension,
            num_latents=self.num_latents,
            num_heads=self.num_heads,
            include_prompt=self.include_prompt,
        )
        folded.to(device=self.latents.device, dtype=self.latents.dtype)
        folded.multiply_out(self.latents, self.cross_attention)
        folded.feed_forward.load_state_dict(self.feed_forward.state_dict())
        return folded.eval()
