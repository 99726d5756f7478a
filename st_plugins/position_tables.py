"""Learned tables of absolute positions: how they are made longer, and where a network keeps them."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from st_plugins.errors import UnsupportedModelError

TableMethod = Literal["interpolate", "recurrent", "grouped"]
TABLE_METHODS = get_args(TableMethod)
# Families that add a row of their table to each token and nothing else that counts positions, but for MPNet's buckets
# of distances, which know no end. XLM-RoBERTa and MPNet are built as RoBERTa is.
FAMILIES = ("albert", "bert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")


def stretch(original: int, length: int) -> int:
    """How often a table of ``original`` rows goes into one of ``length``, rounded up: s."""
    return -(-length // original)


def extended_table(table: Tensor, factor: int, method: TableMethod) -> Tensor:
    """A table of s times as many rows, without training.

    With E the old one of N rows, row i of the new one, i < s N, is

    - ``"interpolate"``: E[i / s], and on the straight line between two rows where that is no integer. Behind the last
      row there is none to go to: it is repeated.
    - ``"recurrent"``: E[i mod N].
    - ``"grouped"``: E[floor(i / s)].

    Args:
        table: (N, D).
        factor: s, at least 1; 1 changes nothing.
        method: See above.

    Returns:
        Tensor: (s N, D) in the same dtype.

    References:
        LongEmbed, https://arxiv.org/abs/2404.12096.

    Example:
        >>> old = torch.tensor([[0.0], [10.0], [20.0]])
        >>> extended_table(old, 2, "interpolate").flatten().tolist()
        [0.0, 5.0, 10.0, 15.0, 20.0, 20.0]
    """
    rows = torch.arange(factor * len(table), device=table.device)
    if method == "recurrent":
        return table[rows % len(table)]
    below = rows // factor
    if method == "grouped":
        return table[below]
    above = (below + 1).clamp_max(len(table) - 1)
    share = (rows % factor / factor)[:, None]  # (s N, 1)
    exact = torch.promote_types(table.dtype, torch.float32)
    return torch.lerp(table[below].to(exact), table[above].to(exact), share.to(exact)).to(table.dtype)


@dataclass(frozen=True)
class PositionTable:
    """Where a network keeps its table.

    Args:
        home: The module that holds ``position_embeddings``.
        offset: Rows before that of the first position: RoBERTa's family keeps one for padding, and what is below it.

    Example:
        >>> PositionTable.of(SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")[0].auto_model).length
        512
    """

    home: nn.Module
    offset: int

    @classmethod
    def of(cls, network: nn.Module) -> "PositionTable":
        """Find the table.

        Raises:
            UnsupportedModelError: If the family is none of ``FAMILIES``, or there is not one table of absolute
                positions.
        """
        config: Any = network.config
        homes = [
            module
            for module in network.modules()
            if isinstance(getattr(module, "position_embeddings", None), nn.Embedding)
        ]
        is_absolute = getattr(config, "position_embedding_type", "absolute") in (None, "absolute")
        if config.model_type not in FAMILIES or len(homes) != 1 or not is_absolute:
            raise UnsupportedModelError(
                f"The model must have one learned table of absolute positions, as {', '.join(FAMILIES)} do, got "
                f"{type(network).__name__}."
            )
        embedding: Any = homes[0].position_embeddings
        offset = 0 if embedding.padding_idx is None else embedding.padding_idx + 1
        return cls(homes[0], offset)

    @property
    def rows(self) -> Tensor:
        """(N, D), the row of the first position first."""
        embedding: Any = self.home.position_embeddings
        return embedding.weight.detach()[self.offset :]

    @property
    def length(self) -> int:
        """N, the positions there are."""
        return len(self.rows)

    def replace(self, rows: Tensor, config: Any) -> None:
        """Put another table in its place, and everything else that must be as long.

        BERT's embeddings also hold position and type ids of every position, which are saved nowhere: they would not
        show up as missing, but longer texts would fail.

        Args:
            rows: (N', D).
            config: The network's; it learns of the new length.
        """
        old: Any = self.home.position_embeddings
        count = self.offset + len(rows)
        new = nn.Embedding(count, rows.shape[1], padding_idx=old.padding_idx, device=rows.device, dtype=rows.dtype)
        new.weight = nn.Parameter(torch.cat([old.weight.detach()[: self.offset], rows]), old.weight.requires_grad)
        self.home.position_embeddings = new.train(old.training)
        ids = torch.arange(count, device=rows.device)[None]
        for name, values in (("position_ids", ids), ("token_type_ids", torch.zeros_like(ids))):
            if name in self.home._buffers:
                self.home.register_buffer(name, values, persistent=name not in self.home._non_persistent_buffers_set)
        config.max_position_embeddings = count
