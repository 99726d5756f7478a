"""Pooling that reads every layer of the network: learned queries attend to one vector per layer."""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from st_plugins.counts import check_counts
from st_plugins.cross_attention import CrossAttention, GatedFeedForward
from st_plugins.errors import InputError, ShapeError, UnsupportedModelError
from st_plugins.exit_criteria import masked_mean
from st_plugins.token_pooling import padded_states, pooling_mask
from st_plugins.weighted_module import WeightedModule

_LAYER_POOLINGS = ("mean", "lasttoken")


class MultiLayerPooling(WeightedModule):
    """Cross-attention of learned queries to the pooled states of all layers, then a gated feed-forward layer.

    With h_l the token states after block l, of L blocks, and Z the R queries, which are the same for every text::

        u_l = mean over the pooled tokens of h_l, or its last one          (D,), l = 1 .. L
        U = N([u_1 .. u_L]) + E                                            E: L x D, learned
        Y = Z + concat_h(softmax(q_h k_h^T / sqrt(d_h)) v_h) W_o           q from LN(Z), k and v from LN(U)
        Y = Y + GEGLU(LN(Y))
        e = mean over the R queries of Y                                   (D,)

    N is a LayerNorm without parameters, or nothing (``normalize_layers=False``, the paper's). Models that normalise
    before each block, decoders above all, give layer L after their final norm and the layers below raw, many times
    larger and all of different size: without N the same E counts in one layer and is lost in the next.

    It does not start as mean pooling and cannot: with W_o and the last feed-forward weights at zero, e is the mean of Z
    for every text. Train it before use. It has R D + L D + 4 D H d_h + 12 D^2 + 15 D parameters, 1.3 billion at the
    paper's size.

    Args:
        embedding_dimension: D, width of the hidden states and of the result.
        num_layers: L of the network it stands behind.
        num_queries: R. None: 3 D / 16, which is the paper's 768 for D = 4096.
        num_heads: H. None: D / 128, the paper's 32.
        head_dim: d_h; H * d_h need not be D. None: D / 2, the paper's 2048.
        layer_pooling: ``"mean"`` for networks whose tokens see one another; ``"lasttoken"`` for causal ones, where only
            the last token has seen the text.
        normalize_layers: See above.
        include_prompt: False leaves the tokens of the prompt out, as in sentence-transformers' ``Pooling``.

    Reads: ``all_layer_embeddings``, L + 1 tensors (B, T, D) of which the first is no layer; the network writes them
    when loaded with ``config_kwargs={"output_hidden_states": True}``. ``token_embeddings`` (for its shape) and
    ``attention_mask`` (B, T) 0/1, left or right padding; or flattened inputs with ``cu_seq_lens_q``. ``prompt_length``
    without ``include_prompt``.

    Writes: ``sentence_embedding`` (B, D) in the dtype of the states, not normalised. A row without pooled tokens gives
    zeros.

    Raises:
        SizeError: If a size is not a positive integer.
        InputError: If ``layer_pooling`` is unknown.
        UnsupportedModelError: If there are no hidden states, or they are of other rows than ``token_embeddings``: it
            needs every layer of one call, so losses over several layers cannot train it, and texts cannot leave early.
        ShapeError: If there are more or fewer layers than L, or they are not D wide.

    References:
        Tang and Yang, *Pooling and Attention*, https://arxiv.org/abs/2409.02727, section 3, models 3 and 5, as their
        code computes them. Ours: N, the starting values of E (normal, 0.02), the defaults below D = 4096.

    Example:
        >>> folder = "sentence-transformers/all-MiniLM-L6-v2"
        >>> model = SentenceTransformer(folder, config_kwargs={"output_hidden_states": True})
        >>> model = SentenceTransformer(modules=[model[0], MultiLayerPooling(384, num_layers=6)])
        >>> model.encode("A text").shape
        (384,)
    """

    config_keys: ClassVar[list[str]] = [
        "embedding_dimension",
        "num_layers",
        "num_queries",
        "num_heads",
        "head_dim",
        "layer_pooling",
        "normalize_layers",
        "include_prompt",
    ]

    def __init__(
        self,
        embedding_dimension: int,
        num_layers: int,
        *,
        num_queries: int | None = None,
        num_heads: int | None = None,
        head_dim: int | None = None,
        layer_pooling: Literal["mean", "lasttoken"] = "mean",
        normalize_layers: bool = True,
        include_prompt: bool = True,
    ) -> None:
        super().__init__()
        check_counts("MultiLayerPooling", embedding_dimension=embedding_dimension, num_layers=num_layers)
        self.embedding_dimension = embedding_dimension
        self.num_layers = num_layers
        self.num_queries = max(1, 3 * embedding_dimension // 16) if num_queries is None else num_queries
        self.num_heads = max(1, embedding_dimension // 128) if num_heads is None else num_heads
        self.head_dim = max(1, embedding_dimension // 2) if head_dim is None else head_dim
        check_counts(
            "MultiLayerPooling", num_queries=self.num_queries, num_heads=self.num_heads, head_dim=self.head_dim
        )
        if layer_pooling not in _LAYER_POOLINGS:
            raise InputError(f"layer_pooling must be one of {_LAYER_POOLINGS}, got {layer_pooling!r}.")
        self.layer_pooling = layer_pooling
        self.normalize_layers = normalize_layers
        self.include_prompt = include_prompt
        self.queries = nn.Parameter(torch.randn(self.num_queries, embedding_dimension))  # Z
        self.layer_positions = nn.Parameter(0.02 * torch.randn(num_layers, embedding_dimension))  # E
        self.cross_attention = CrossAttention(embedding_dimension, num_heads=self.num_heads, head_dim=self.head_dim)
        self.feed_forward = GatedFeedForward(embedding_dimension)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:  # the host's per-call options
        """Pool; see the class."""
        layers = self._layers(features)
        mask = pooling_mask(features, include_prompt=self.include_prompt)  # (B, T)
        pool = masked_mean if self.layer_pooling == "mean" else _last_token
        pooled = [pool(padded_states(states, features, mask), mask) for states in layers]
        context = torch.stack(pooled, dim=1)  # (B, L, D)
        if self.normalize_layers:
            context = F.layer_norm(context, (self.embedding_dimension,))
        context = context.to(self.layer_positions.dtype) + self.layer_positions
        read = self.feed_forward(self.cross_attention(self.queries[None], context))  # (B, R, D)
        embeddings = read.mean(dim=1)  # (B, D)
        embeddings = embeddings.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)
        features["sentence_embedding"] = embeddings.to(layers[0].dtype)
        return features

    def _layers(self, features: dict[str, Any]) -> tuple[Tensor, ...]:
        """The states after blocks 1 to L, checked."""
        states = features.get("all_layer_embeddings")
        if states is None or any(layer is None for layer in states):
            raise UnsupportedModelError(
                "MultiLayerPooling needs the hidden states of all layers, and got none or not all. Load the network "
                'with SentenceTransformer(name, config_kwargs={"output_hidden_states": True}); exits do not keep them.'
            )
        if len(states) != self.num_layers + 1:
            raise ShapeError(
                f"MultiLayerPooling(num_layers={self.num_layers}) needs the embeddings and {self.num_layers} layers, "
                f"got {len(states)} tensors. Build it with num_layers=model[0].model.config.num_hidden_layers, and run "
                "the network at full depth."
            )
        tokens = features["token_embeddings"]
        if states[-1].shape[:2] != tokens.shape[:2]:
            raise UnsupportedModelError(
                "MultiLayerPooling needs hidden states of the same rows and tokens as token_embeddings, "
                f"{tuple(tokens.shape[:2])}, got {tuple(states[-1].shape[:2])}. It uses all layers at once: losses "
                "over several layers, like ElasticLoss, cannot train it."
            )
        if states[-1].shape[-1] != self.embedding_dimension:
            raise ShapeError(
                f"MultiLayerPooling(embedding_dimension={self.embedding_dimension}) needs hidden states of that width, "
                f"got {tuple(states[-1].shape)}. Build it with the width of the network, "
                "model[0].get_embedding_dimension()."
            )
        return tuple(states[1:])


def _last_token(tokens: Tensor, mask: Tensor) -> Tensor:
    """The last of the tokens (B, T, D) that the mask keeps, wherever the padding is."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = (positions * mask).amax(dim=1)[:, None, None]  # (B, 1, 1)
    return tokens.gather(1, last.expand(-1, 1, tokens.shape[-1])).squeeze(1)  # (B, D)
