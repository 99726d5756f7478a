"""Makes pairs out of texts alone: each text, and the same text with some of its tokens said twice (ESimCSE).

It does not compute a loss; give it to the trainer with ``MultipleNegativesRankingLoss`` or ``MomentumQueueLoss``.
"""

import math
from typing import Any, ClassVar

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_plugins.errors import LossError, UnsupportedModelError
from st_plugins.training.text_rows import only_texts


class WordRepetitionCollator:
    """A batch of pairs (text, text with repeated tokens), so that length does not give a pair away.

    With N the tokens of a text without special ones, k of them are drawn without repetition and follow themselves::

        k uniform in 0 ... max(2, floor(rate N)), at most N; 0 if rate is 0

    What would be longer than the model's limit loses tokens at its end; special tokens stay. The model's dropout makes
    the rest of the difference. Randomness is torch's own, so the trainer's seed decides.

    Args:
        model: The model that is trained; texts are tokenized as it does, with its ``max_seq_length``.
        rate: Share of a text's tokens that is repeated at most, in [0, 1]; 0.32 in the paper for BERT, 0.28 to 0.32
            for others.

    Reads: rows with one column of texts, and ``dataset_name`` where the trainer adds it.

    Writes: for a column named ``text`` the model's features of the texts, ``text_input_ids`` (B, T) and so on, and
    those of the repeated texts, ``repeated_text_input_ids`` (B, T') and so on.

    Raises:
        LossError: If the rate is out of range, or a row has another shape.
        UnsupportedModelError: If the model's inputs are not padded token ids with their attention mask.

    References:
        Wu et al., *ESimCSE*, https://arxiv.org/abs/2109.04380, section 3.1. The authors' code draws fewer than
        min(10, rate N) tokens, which fails on the shortest texts; this is the paper's formula.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> batch = WordRepetitionCollator(model)([{"text": "a few words to say"}])
        >>> once, repeated = batch["text_input_ids"].shape[1], batch["repeated_text_input_ids"].shape[1]
        >>> once <= repeated <= once + 2
        True
    """

    # The trainer asks its collator for this; no column here is a label.
    valid_label_columns: ClassVar[list[str]] = []

    def __init__(self, model: SentenceTransformer, *, rate: float = 0.32) -> None:
        if not 0 <= rate <= 1:
            raise LossError(f"rate must be from 0 to 1, got {rate!r}.")
        self.model = model
        self.rate = rate

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch of these rows; see the class."""
        column, texts = only_texts(rows)
        features = dict(self.model.preprocess(texts))
        ids, mask = features.get("input_ids"), features.get("attention_mask")
        if ids is None or mask is None or ids.ndim != 2 or mask.shape != ids.shape:
            raise UnsupportedModelError(
                "The model's inputs must be padded token ids with their attention mask, both (B, T), got "
                f"{', '.join(sorted(features))}. Take a model that starts with a Transformer, with padded inputs "
                "(model[0].unpad_inputs = False)."
            )
        sides = {column: features, f"repeated_{column}": self._repeat(features)}
        batch = {f"{side}_{name}": value for side, values in sides.items() for name, value in values.items()}
        return {**batch, "dataset_name": rows[0]["dataset_name"]} if "dataset_name" in rows[0] else batch

    def _repeat(self, features: dict[str, Any]) -> dict[str, Any]:
        """The same features with tokens repeated."""
        tokenizer = self.model.tokenizer
        ids, mask = features["input_ids"], features["attention_mask"]
        special = torch.isin(ids, torch.tensor(sorted({*tokenizer.all_special_ids}), device=ids.device))
        # Never below what the batch has; some models set no limit.
        limit = max(self.model.max_seq_length or math.inf, ids.shape[1])
        orders = [
            repeated_positions(row_mask.nonzero().flatten().tolist(), row_special.tolist(), self.rate, limit)
            for row_mask, row_special in zip(mask, special, strict=True)
        ]
        width = max(map(len, orders))
        is_left = tokenizer.padding_side == "left"
        padded = [[-1] * (width - len(o)) + o if is_left else o + [-1] * (width - len(o)) for o in orders]
        index = torch.tensor(padded, device=ids.device)  # (B, T'), -1 where there is nothing
        fill = {"input_ids": tokenizer.pad_token_id or 0}
        return {
            name: _taken(value, index, fill.get(name, 0))
            if isinstance(value, Tensor) and value.shape == ids.shape
            else value
            for name, value in features.items()
        }


def repeated_positions(positions: list[int], is_special: list[bool], rate: float, limit: float) -> list[int]:
    """The positions of a text in order, some of them twice.

    Args:
        positions: Those of its real tokens, special ones included.
        is_special: For each position of the row, whether a special token is there; these are never repeated or cut.
        rate: See :class:`WordRepetitionCollator`.
        limit: The most positions to return.

    Returns:
        list: In the same order, each once or twice, without the last ones that are too many.

    Example:
        >>> repeated_positions([0, 1, 2], [True, False, True], rate=0.0, limit=8)
        [0, 1, 2]
    """
    content = [position for position in positions if not is_special[position]]
    most = min(max(2, int(rate * len(content))), len(content)) if rate > 0 else 0
    count = int(torch.randint(most + 1, ()))
    drawn = {content[index] for index in torch.randperm(len(content))[:count].tolist()}
    order = [position for position in positions for _ in range(1 + (position in drawn))]
    while len(order) > limit:
        del order[max(index for index, position in enumerate(order) if not is_special[position])]
    return order


def _taken(value: Tensor, index: Tensor, fill: int) -> Tensor:
    return value.gather(1, index.clamp(min=0)).masked_fill(index < 0, fill)
