"""Makes batches for masked autoencoding: one text masked twice, lightly to be encoded and heavily to be decoded.

It does not compute a loss; that is ``MaskedAutoencoderLoss`` in :mod:`st_plugins.losses`.
"""

from typing import Any, ClassVar

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_plugins.errors import LossError, UnsupportedModelError
from st_plugins.training.text_rows import only_texts

# What PyTorch's cross entropy ignores by default.
_NOT_PREDICTED = -100


class NestedMaskingCollator:
    """Hides whole words of each text, some from the encoder and more from the decoder, those of the encoder among them.

    Words are drawn in random order until their tokens make up the share; one that would exceed it is passed over. A
    text gets at least one hidden word as long as it has one. A drawn token becomes the mask token with probability
    0.8, a random token with 0.1, and stays as it is with 0.1, independently for encoder and decoder. Special tokens,
    unknown words and padding are never drawn. Randomness is torch's own, so the trainer's seed decides.

    Args:
        model: The model that is trained; texts are tokenized as it does, with its ``max_seq_length``.
        encoder_share: Share of a text's tokens hidden from the encoder, in (0, 1); 0.2 in the paper.
        decoder_share: The same for the decoder, from ``encoder_share`` to 1, exclusive; 0.4 in the paper.

    Reads: rows with one column of texts, and ``dataset_name`` where the trainer adds it.

    Writes: for a column named ``text`` the model's features, ``text_input_ids`` (B, T) masked for the encoder;
    ``text_decoder_ids`` (B, T), masked for the decoder; ``text_encoder_labels`` and ``text_decoder_labels`` (B, T), the
    id where a token was drawn and -100 elsewhere.

    Raises:
        LossError: If a share is out of range, or a row has another shape.
        UnsupportedModelError: If the tokenizer has no mask token or cannot tell which tokens form a word.

    References:
        Zhuang et al., *Starbucks: Improved Training for 2D Matryoshka Embeddings*, https://arxiv.org/abs/2410.13230,
        and the authors' code, which draws the 80/10/10 too. Differs from it: the share counts the text's tokens without
        the special ones; a text whose words all exceed the share is not left unmasked; long texts are cut at their end,
        not at a random place.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> batch = NestedMaskingCollator(model)([{"text": "a few words to hide"}])
        >>> [int((batch[f"text_{side}_labels"] >= 0).sum()) for side in ("encoder", "decoder")]
        [1, 2]
    """

    # The trainer asks its collator for this; no column here is a label.
    valid_label_columns: ClassVar[list[str]] = []

    def __init__(self, model: SentenceTransformer, *, encoder_share: float = 0.2, decoder_share: float = 0.4) -> None:
        if not 0 < encoder_share <= decoder_share < 1:
            raise LossError(
                "The shares must satisfy 0 < encoder_share <= decoder_share < 1, got "
                f"encoder_share={encoder_share!r} and decoder_share={decoder_share!r}."
            )
        self.model = model
        self.encoder_share = encoder_share
        self.decoder_share = decoder_share
        self._check_tokenizer()

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch of these rows; see the class."""
        column, texts = only_texts(rows)
        features = self.model.preprocess(texts)
        encoder, decoder = self._draw(features)
        ids = features["input_ids"]
        masked = {
            **features,
            "input_ids": self._hide(ids, encoder),
            "encoder_labels": ids.where(encoder, _NOT_PREDICTED),
            "decoder_ids": self._hide(ids, decoder),
            "decoder_labels": ids.where(decoder, _NOT_PREDICTED),
        }
        batch = {f"{column}_{name}": value for name, value in masked.items()}
        return {**batch, "dataset_name": rows[0]["dataset_name"]} if "dataset_name" in rows[0] else batch

    def _check_tokenizer(self) -> None:
        tokenizer = self.model.tokenizer
        name = type(tokenizer).__name__
        if tokenizer.mask_token_id is None:
            raise UnsupportedModelError(
                f"The tokenizer must have a mask token, this {name} has none. Add one: "
                'model.tokenizer.add_special_tokens({"mask_token": "[MASK]"}) and then '
                "model[0].model.resize_token_embeddings(len(model.tokenizer))."
            )
        features = self.model.preprocess(["two words"])
        if not getattr(features, "is_fast", False) or len({*features.word_ids(0)} - {None}) != 2:
            raise UnsupportedModelError(
                f"The tokenizer must say which tokens form a word, this {name} does not. Take the fast form of the "
                "tokenizer, one that splits texts into words, and padded inputs (model[0].unpad_inputs = False)."
            )

    def _draw(self, features: Any) -> tuple[Tensor, Tensor]:
        """Which tokens are hidden from the encoder and from the decoder, two (B, T) bool."""
        encoder = torch.zeros_like(features["input_ids"], dtype=torch.bool)
        decoder = torch.zeros_like(encoder)
        special = {*self.model.tokenizer.all_special_ids}
        for row, ids in enumerate(features["input_ids"].tolist()):
            words: dict[int, list[int]] = {}
            for position, word in enumerate(features.word_ids(row)):
                if word is not None and ids[position] not in special:
                    words.setdefault(word, []).append(position)
            light, heavy = nested_words([*words.values()], self.encoder_share, self.decoder_share)
            encoder[row, light] = True
            decoder[row, heavy] = True
        return encoder, decoder

    def _hide(self, ids: Tensor, drawn: Tensor) -> Tensor:
        """The ids as the network sees them, (B, T)."""
        tokenizer = self.model.tokenizer
        chance = torch.rand(ids.shape)
        noise = torch.randint(len(tokenizer), ids.shape)
        hidden = torch.where(drawn & (chance < 0.8), tokenizer.mask_token_id, ids)
        return torch.where(drawn & (chance >= 0.9), noise, hidden)


def nested_words(words: list[list[int]], encoder_share: float, decoder_share: float) -> tuple[list[int], list[int]]:
    """Draw words of one text for the encoder, and more of them for the decoder.

    Args:
        words: The positions of each word's tokens.
        encoder_share: Share of the tokens, in (0, 1).
        decoder_share: Share of the tokens, at least ``encoder_share``.

    Returns:
        tuple: Positions for the encoder and for the decoder, the former among the latter. Of n tokens at most
        round(share * n), or one word if none fits; nothing of no words.

    Example:
        >>> light, heavy = nested_words([[1], [2, 3], [4], [5], [6]], 0.2, 0.5)
        >>> len(light), set(light) <= set(heavy)
        (1, True)
    """
    order = [words[index] for index in torch.randperm(len(words)).tolist()]
    tokens = sum(len(word) for word in words)
    light = _filled([], order, round(encoder_share * tokens))
    heavy = _filled(light, order, round(decoder_share * tokens))
    return [p for word in light for p in word], [p for word in heavy for p in word]


def _filled(taken: list[list[int]], order: list[list[int]], budget: int) -> list[list[int]]:
    """``taken`` and further words in this order, as long as their tokens fit."""
    chosen, used = list(taken), sum(len(word) for word in taken)
    before = {word[0] for word in taken}
    for word in order:
        if used + len(word) <= budget and word[0] not in before:
            chosen.append(word)
            used += len(word)
    return chosen or order[:1]
