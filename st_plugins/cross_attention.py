"""The two halves of a cross-attention block, each with its norms and its residual. No pooling, no masks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """Multi-head attention of queries to a context, normalised before and added to the queries.

    With x the queries and c the context::

        q, k, v = LN_q(x) W_q, LN_c(c) W_k, LN_c(c) W_v          H heads of d_h each, no biases
        y = x + concat_h(softmax(q_h k_h^T / sqrt(d_h)) v_h) W_o

    Nothing is masked: of the context every entry counts. The softmax is taken in single precision at least.

    Args:
        embedding_dimension: D of queries, context and result.
        num_heads: H.
        head_dim: d_h; H * d_h need not be D.

    Example:
        >>> CrossAttention(4, num_heads=3, head_dim=2)(torch.ones(1, 5, 4), torch.ones(1, 7, 4)).shape
        torch.Size([1, 5, 4])
    """

    def __init__(self, embedding_dimension: int, *, num_heads: int, head_dim: int) -> None:
        super().__init__()
        inner = num_heads * head_dim
        self.head_dim = head_dim
        self.query_norm = nn.LayerNorm(embedding_dimension)
        self.context_norm = nn.LayerNorm(embedding_dimension)
        self.to_queries = nn.Linear(embedding_dimension, inner, bias=False)
        self.to_keys = nn.Linear(embedding_dimension, inner, bias=False)
        self.to_values = nn.Linear(embedding_dimension, inner, bias=False)
        self.to_output = nn.Linear(inner, embedding_dimension, bias=False)

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:
        """Queries (B or 1, Q, D) and context (B or 1, L, D) in, (B, Q, D) out."""
        normed = self.context_norm(context)
        q = self._heads(self.to_queries(self.query_norm(queries)))  # (B or 1, H, Q, d_h)
        k, v = self._heads(self.to_keys(normed)), self._heads(self.to_values(normed))  # (B or 1, H, L, d_h)
        # Scaled first: half precision ends at 65504.
        scores = q / self.head_dim**0.5 @ k.transpose(-1, -2)  # (B, H, Q, L)
        single = torch.promote_types(scores.dtype, torch.float32)
        weights = torch.softmax(scores, dim=-1, dtype=single).to(v.dtype)
        read = (weights @ v).transpose(1, 2).flatten(2)  # (B, Q, H * d_h)
        return queries + self.to_output(read)

    def _heads(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class GatedFeedForward(nn.Module):
    """GEGLU with a norm before and a residual around it.

    ::

        [a, g] = LN(x) W_1 + b_1          W_1: D to 8 D, in two halves
        y = x + (a * GELU(g)) W_2 + b_2          exact GELU, W_2: 4 D to D

    Args:
        embedding_dimension: D.

    References:
        GEGLU: Shazeer, *GLU Variants Improve Transformer*, https://arxiv.org/abs/2002.05202.

    Example:
        >>> GatedFeedForward(4)(torch.ones(1, 5, 4)).shape
        torch.Size([1, 5, 4])
    """

    def __init__(self, embedding_dimension: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(embedding_dimension)
        self.expand = nn.Linear(embedding_dimension, 8 * embedding_dimension)
        self.contract = nn.Linear(4 * embedding_dimension, embedding_dimension)

    def forward(self, states: Tensor) -> Tensor:
        """(..., D) in, (..., D) out."""
        values, gates = self.expand(self.norm(states)).chunk(2, dim=-1)
        return states + self.contract(values * F.gelu(gates))
