"""One fixed vector for the many vectors of a text, whose dot products follow MaxSim: MUVERA's encoding."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from st_plugins.counts import check_counts
from st_plugins.errors import SizeError
from st_plugins.token_pooling import padded_states, pooling_mask
from st_plugins.weighted_module import WeightedModule

_STEPS = 4096  # a plane's coordinates are integers, 4096 to a standard deviation
_MOST_BITS = 12  # 4,096 buckets; the paper uses 2 to 6 bits
_BATCH = 32


class FixedDimensionalEncoder(WeightedModule):
    """Turns the token embeddings of a late-interaction model into one vector, which any index of vectors can serve.

    The dot product of a query's vector with a document's estimates MaxSim = sum_q max_p q . p. It is for choosing
    candidates, which exact MaxSim then ranks, as :class:`~st_plugins.multi_vector.MultiVectorSearch` does: the estimate
    lies far below MaxSim, the more so the more alike all tokens are. Search with dot products and do **not** normalize:
    the lengths carry meaning. Nothing is learned.

    Each of R repetitions cuts the space by k random planes into 2^k buckets. With b(x) the bucket of a token, whose bit
    i says that it lies on the positive side of plane i, and S random signs::

        psi(x) = S x / sqrt(d_proj)                              (d_proj,)
        query:     F_b = sum of psi(q) over b(q) = b             0 for an empty bucket
        document:  F_b = mean of psi(p) over b(p) = b            empty: psi(p) of the token with the nearest bits
        F = all buckets of all repetitions, one behind another   R 2^k d_proj numbers
        MaxSim ~ F_query . F_document / R

    Without projection a document's bucket is a mean of its tokens, so F_query . F_document / R <= MaxSim, always.
    ``final_dim`` shortens F by a Count-Sketch: each number is added, with a random sign, to one of ``final_dim``
    places. In the paper a very large F (k = 6, R = 40) made short by it beats a small F of the same length; halving the
    F of the defaults was worse than taking k = 4 where we measured it.

    A text is a query or a document by the host's ``task``: ``encode_query`` sums, ``encode_document`` and ``encode``
    average. Among tokens whose bits are equally near, the first fills a bucket, so a filled vector depends on their
    order. Behind a ``MultiVectorMask`` exactly the tokens that are scored are counted, ``[MASK]`` tokens of query
    expansion included.

    Args:
        embedding_dimension: D, width of the token embeddings.
        k_sim: k, planes of a repetition, 0 to 12; 0 is one bucket.
        d_proj: Numbers per bucket; None keeps all D.
        repetitions: R.
        final_dim: Length after the Count-Sketch; None leaves F as it is, R 2^k d_proj numbers.
        fill_empty: Fill a document's empty buckets, as the paper does. Off, the bound above does not hold.
        seed: Of the random numbers. They are saved with the model: whoever loads it has the same buckets, and a seed
            alone does not promise that across versions of torch.

    Reads: ``token_embeddings`` (B, T, D), ``attention_mask`` (B, T), left or right padding; or flattened inputs with
    ``cu_seq_lens_q``.

    Writes: ``sentence_embedding`` (B, R 2^k d_proj) or (B, final_dim) in the same dtype, computed in single precision
    at least; ``token_embeddings`` stay. A text without tokens gives zeros.

    Raises:
        SizeError: If a size cannot be.
        ShapeError: If the token embeddings are not D wide.

    References:
        Dhulipala et al., *MUVERA: Multi-Vector Retrieval via Fixed Dimensional Encodings*,
        https://arxiv.org/abs/2405.19504, sections 2 and 3.1. The final projection is that of the authors' code. Vectors
        of other implementations use other random numbers and cannot be compared with these.

    Example:
        >>> encoder = FixedDimensionalEncoder(2, k_sim=0, d_proj=None, repetitions=1)
        >>> tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> encoder({"token_embeddings": tokens}, task="query")["sentence_embedding"]
        tensor([[1., 1.]])
        >>> encoder({"token_embeddings": tokens}, task="document")["sentence_embedding"]
        tensor([[0.5000, 0.5000]])
    """

    config_keys: ClassVar[list[str]] = [
        "embedding_dimension",
        "k_sim",
        "d_proj",
        "repetitions",
        "final_dim",
        "fill_empty",
        "seed",
    ]
    forward_kwargs: ClassVar[set[str]] = {"task"}
    # Integers, all of them: model.half() casts floats, and a rounded plane would move tokens to other buckets.
    planes: Tensor  # (R, D, k)
    signs: Tensor  # (R, D, d_proj), not there without projection
    places: Tensor  # (R 2^k d_proj,), not there without final_dim
    place_signs: Tensor  # likewise

    def __init__(
        self,
        embedding_dimension: int,
        *,
        k_sim: int = 5,
        d_proj: int | None = 16,
        repetitions: int = 20,
        final_dim: int | None = None,
        fill_empty: bool = True,
        seed: int = 42,
    ) -> None:
        super().__init__()
        optional = {"d_proj": d_proj, "final_dim": final_dim}
        counts = {"embedding_dimension": embedding_dimension, "repetitions": repetitions}
        counts |= {name: size for name, size in optional.items() if size is not None}
        check_counts("FixedDimensionalEncoder", **counts)
        if not isinstance(k_sim, int) or isinstance(k_sim, bool) or not 0 <= k_sim <= _MOST_BITS:
            raise SizeError(f"FixedDimensionalEncoder needs k_sim from 0 to {_MOST_BITS}, got {k_sim!r}.")
        self.embedding_dimension = embedding_dimension
        self.k_sim = k_sim
        self.d_proj = d_proj
        self.repetitions = repetitions
        self.final_dim = final_dim
        self.fill_empty = fill_empty
        self.seed = seed
        self._draw(torch.Generator().manual_seed(seed))

    def _draw(self, generator: torch.Generator) -> None:
        shape = (self.repetitions, self.embedding_dimension)
        planes = torch.randn(*shape, self.k_sim, generator=generator, dtype=torch.float64)
        self.register_buffer("planes", (planes * _STEPS).round().to(torch.int16))
        if self.d_proj is not None:
            self.register_buffer("signs", _random_signs((*shape, self.d_proj), generator))
        if self.final_dim is not None:
            length = self.repetitions * 2**self.k_sim * (self.d_proj or self.embedding_dimension)
            self.register_buffer("places", torch.randint(self.final_dim, (length,), generator=generator))
            self.register_buffer("place_signs", _random_signs((length,), generator))

    def forward(self, features: dict[str, Any], task: str | None = None) -> dict[str, Any]:
        """Encode; ``task="query"`` sums, anything else averages. See the class."""
        states = self.given_tokens(features)
        mask = pooling_mask(features, include_prompt=True)  # (B, T)
        tokens = padded_states(states, features, mask)  # (B, T, D)
        tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        shares = self._shares(tokens, mask, is_query=task == "query")  # (B, R, 2^k, T)
        encoding = (shares @ self._project(tokens)).flatten(1)  # (B, R 2^k d_proj)
        if self.final_dim is not None:
            sketch = encoding.new_zeros(encoding.shape[0], self.final_dim)  # not len(), which a trace makes a constant
            signed = encoding * self.place_signs.to(encoding.dtype)
            encoding = sketch.scatter_add(1, self.places.expand_as(signed), signed)
        features["sentence_embedding"] = encoding.to(states.dtype)
        return features

    def _project(self, tokens: Tensor) -> Tensor:
        if self.d_proj is None:
            return tokens[:, None]  # (B, 1, T, D)
        return tokens[:, None] @ (self.signs.to(tokens.dtype) * self.d_proj**-0.5)  # (B, R, T, d_proj)

    def _shares(self, tokens: Tensor, mask: Tensor, *, is_query: bool) -> Tensor:
        """How much each token counts in each bucket, (B, R, 2^k, T)."""
        distances = self._distances(tokens)  # (B, R, 2^k, T)
        real = mask[:, None, None]
        inside = (distances == 0) & real
        if is_query:
            return inside.to(tokens.dtype)
        counts = inside.sum(dim=-1, keepdim=True)
        shares = inside.to(tokens.dtype) / counts.clamp_min(1)
        if self.fill_empty:
            # Position breaks ties, so that the nearest token is one and the same on every device.
            order = distances * mask.shape[1] + torch.arange(mask.shape[1], device=mask.device)
            order = order.masked_fill(~real, torch.iinfo(order.dtype).max)
            nearest = (order == order.amin(dim=-1, keepdim=True)) & real
            shares = torch.where(counts == 0, nearest.to(shares.dtype), shares)
        return shares

    def _distances(self, tokens: Tensor) -> Tensor:
        """Bits in which tokens and buckets differ, (B, R, 2^k, T) integers.

        In double precision where the device has it: in single, the order of a sum decides on which side of a plane a
        token lies that is very near to it, and that order changes with the batch.
        """
        exact = torch.float32 if tokens.device.type == "mps" else torch.float64
        bits = (tokens[:, None].to(exact) @ self.planes.to(exact) > 0).to(torch.float32)  # (B, R, T, k)
        powers = 2 ** torch.arange(self.k_sim, device=tokens.device)
        buckets = torch.arange(2**self.k_sim, device=tokens.device)
        wanted = (buckets[:, None] // powers % 2).to(torch.float32)  # (2^k, k), plane 0 is the lowest bit
        # |w - b| = w + b - 2 w b for bits; sums of at most k ones are exact.
        differing = bits.sum(-1)[:, :, None] + wanted.sum(-1)[:, None] - 2 * wanted @ bits.transpose(-1, -2)
        return differing.round().long()

    @torch.inference_mode()
    def encode_query(self, token_embeddings: Sequence[Tensor]) -> Tensor:
        """Vectors of queries that were encoded before, as ``MultiVectorEncoder.encode_query`` returns them.

        Args:
            token_embeddings: One tensor (T_i, D) for each query.

        Returns:
            Tensor: (queries, length), on the device of this module.

        Example:
            >>> encoder = FixedDimensionalEncoder(2, k_sim=2, d_proj=4, repetitions=3)
            >>> encoder.encode_query([torch.ones(5, 2), torch.ones(1, 2)]).shape
            torch.Size([2, 48])
        """
        return self._encode(token_embeddings, "query")

    @torch.inference_mode()
    def encode_document(self, token_embeddings: Sequence[Tensor]) -> Tensor:
        """As :meth:`encode_query`, of documents."""
        return self._encode(token_embeddings, "document")

    def _encode(self, token_embeddings: Sequence[Tensor], task: str) -> Tensor:
        device = self.planes.device
        rows = [torch.zeros(0, self.get_embedding_dimension(), device=device)]
        for start in range(0, len(token_embeddings), _BATCH):
            batch = [torch.as_tensor(tokens).to(device) for tokens in token_embeddings[start : start + _BATCH]]
            lengths = torch.tensor([len(tokens) for tokens in batch], device=device)
            room = batch[0].new_zeros(1, batch[0].shape[-1])  # for a batch without any token
            padded = pad_sequence([*batch, room], batch_first=True)[:-1]
            mask = torch.arange(padded.shape[1], device=device) < lengths[:, None]
            features = self({"token_embeddings": padded, "attention_mask": mask}, task=task)
            rows.append(features["sentence_embedding"])
        return torch.cat(rows[1:] or rows)

    def get_embedding_dimension(self) -> int:
        """Length of the vectors: ``final_dim``, or R 2^k d_proj."""
        return self.final_dim or self.repetitions * 2**self.k_sim * (self.d_proj or self.embedding_dimension)


def _random_signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return (torch.randint(2, shape, generator=generator) * 2 - 1).to(torch.int8)
