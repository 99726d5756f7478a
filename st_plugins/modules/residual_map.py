"""Maps sentence embeddings into another model's space by a line and a small network beside it. Fits nothing."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from st_plugins.counts import check_counts
from st_plugins.errors import ShapeError
from st_plugins.weighted_module import WeightedModule


class ResidualMap(WeightedModule):
    """An affine map and, added to it, a network of one hidden layer; unit vectors come out.

    With e (D,) the embedding, E the new width and H the hidden one::

        e' = f(e) / || f(e) ||        f(e) = W e + b + V gelu(U e + c)        W (E, D), V (E, H), U (H, D)

    V starts at zero and W with ones on its diagonal, so a new one only cuts, or fills up with zeros.
    :func:`st_plugins.adapt_to_index` fits it with ``method="mlp"``. It goes behind the last module of a model.

    Args:
        input_dimension: D.
        embedding_dimension: E.
        hidden_dimension: H.

    Reads: ``sentence_embedding`` (B, D).

    Writes: ``sentence_embedding`` (B, E), of unit length.

    Raises:
        SizeError: If a dimension is not a positive integer.
        ShapeError: If the embeddings are not D wide.

    References:
        Residual adapters between embedding spaces: Vejendla, *Drift-Adapter*, https://arxiv.org/abs/2509.23471.

    Example:
        >>> residual = ResidualMap(3, 2, hidden_dimension=4)
        >>> residual({"sentence_embedding": torch.tensor([[3.0, 4.0, 12.0]])})["sentence_embedding"]
        tensor([[0.6000, 0.8000]], grad_fn=...)
    """

    config_keys: ClassVar[list[str]] = ["input_dimension", "embedding_dimension", "hidden_dimension"]

    def __init__(self, input_dimension: int, embedding_dimension: int, hidden_dimension: int) -> None:
        super().__init__()
        check_counts(
            "ResidualMap",
            input_dimension=input_dimension,
            embedding_dimension=embedding_dimension,
            hidden_dimension=hidden_dimension,
        )
        self.input_dimension = input_dimension
        self.embedding_dimension = embedding_dimension
        self.hidden_dimension = hidden_dimension
        self.line = nn.Linear(input_dimension, embedding_dimension)  # W, b
        self.expand = nn.Linear(input_dimension, hidden_dimension)  # U, c
        self.contract = nn.Linear(hidden_dimension, embedding_dimension, bias=False)  # V
        with torch.no_grad():
            self.line.weight.copy_(torch.eye(embedding_dimension, input_dimension))
            self.line.bias.zero_()
            self.contract.weight.zero_()

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Map every row; see the class."""
        embeddings = features["sentence_embedding"]
        if embeddings.shape[-1] != self.input_dimension:
            raise ShapeError(
                f"ResidualMap(input_dimension={self.input_dimension}) needs a sentence_embedding of shape "
                f"(batch, {self.input_dimension}), got {tuple(embeddings.shape)}. Put it before any truncation."
            )
        read = embeddings.to(self.line.weight.dtype)
        mapped = self.line(read) + self.contract(F.gelu(self.expand(read)))
        features["sentence_embedding"] = F.normalize(mapped, dim=-1).to(embeddings.dtype)
        return features
