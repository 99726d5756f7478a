"""A Transformer with an interpolated table of positions that embeds short texts as it did before."""

import warnings
from typing import Any, ClassVar

import torch
from sentence_transformers.sentence_transformer.modules import Transformer

from st_plugins.counts import is_count
from st_plugins.errors import SizeError, UnsupportedModelError
from st_plugins.position_tables import PositionTable


class InterpolatedTransformer(Transformer):
    """sentence-transformers' ``Transformer`` whose table of positions has s - 1 new rows between two old ones.

    A text of up to N tokens gets positions 0, s, 2s, ..., the old rows, so its vector is what it was before the table
    was made longer. A longer one gets 0, 1, 2, ... Which of both depends on its own tokens, never on its batch.

    Most people get one from ``extend_positions(model, length, method="interpolate", keep_short=True)`` of
    ``st_plugins.long_texts``. Whoever reads a saved folder as a plain BERT, without this class, gives short texts the
    positions of long ones, and so other vectors: saving warns of that.

    Args:
        model_name_or_path: As for ``Transformer``; its table has s N rows.
        original_length: N, tokens with special ones.
        **kwargs: As for ``Transformer``.

    Reads: what ``Transformer`` reads, ``attention_mask`` (B, T) among it, padded inputs only.

    Writes: what ``Transformer`` writes.

    Raises:
        UnsupportedModelError: If the model has no learned table of positions, or inputs are flattened.
        SizeError: If the length of the table is no multiple of N.

    References:
        LongEmbed, https://arxiv.org/abs/2404.12096 (position interpolation).

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> longer = st_plugins.long_texts.extend_positions(model, 1024, method="interpolate", keep_short=True)
        >>> type(longer[0]).__name__, longer[0].original_length
        ('InterpolatedTransformer', 512)
        >>> bool(abs(longer.encode("A text") - model.encode("A text")).max() < 1e-6)
        True
    """

    config_keys: ClassVar[list[str]] = [*Transformer.config_keys, "original_length"]

    def __init__(self, model_name_or_path: str, *, original_length: int, **kwargs: Any) -> None:
        super().__init__(model_name_or_path, **kwargs)
        self._keep(original_length)

    @classmethod
    def from_transformer(cls, transformer: Transformer, original_length: int) -> "InterpolatedTransformer":
        """The same transformer with positions by this rule; weights and tokenizer are shared.

        Args:
            transformer: Its table has been interpolated already; left as it is.
            original_length: N.

        Raises:
            UnsupportedModelError, SizeError: See the class.
        """
        interpolated = object.__new__(cls)
        interpolated.__dict__.update(transformer.__dict__)
        interpolated.__dict__["_modules"] = dict(transformer._modules)
        interpolated._keep(original_length)
        return interpolated

    def _keep(self, original_length: int) -> None:
        length = PositionTable.of(self.auto_model).length
        if not is_count(original_length) or length % original_length:
            raise SizeError(
                f"The table of positions must be a multiple of original_length long, got original_length="
                f"{original_length!r} for {length} positions. Make it with st_plugins.long_texts.extend_positions."
            )
        self.original_length = original_length

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """As ``Transformer.forward``, whose ``kwargs`` are the host's, at the positions of the class."""
        if "cu_seq_lens_q" in features:
            raise UnsupportedModelError(
                "InterpolatedTransformer needs padded inputs, got flattened (unpadded) ones. "
                "Set model[0].unpad_inputs = False."
            )
        table = PositionTable.of(self.auto_model)
        is_token = features["attention_mask"] > 0  # (B, T)
        if table.offset:  # RoBERTa's family passes over the id of padding wherever it is
            is_token = is_token & (features["input_ids"] != table.offset - 1)
        counts = is_token.long().cumsum(1)
        is_short = counts[:, -1:] <= self.original_length
        positions = (counts - 1) * torch.where(is_short, table.length // self.original_length, 1) + table.offset
        # Padding has no position; RoBERTa's family keeps a row for it.
        positions = torch.where(is_token, positions, max(table.offset - 1, 0))
        return super().forward(features, position_ids=positions, **kwargs)

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """As ``Transformer.save``."""
        warnings.warn(
            "Short texts keep their positions by InterpolatedTransformer only: a reader that takes this folder for a "
            "plain model gives them other vectors. Leave keep_short out for a model that loads anywhere.",
            stacklevel=2,
        )
        super().save(output_path, *args, **kwargs)

    def __repr__(self) -> str:
        return f"Interpolated{super().__repr__()}"
