"""Starbucks masked autoencoding: pre-trains every size on plain text, before a loss on pairs trains embeddings."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import Tensor, nn

from st_plugins.block_inputs import decoding_view
from st_plugins.blocks import find_blocks, follow, own_blocks
from st_plugins.errors import LossError, UnsupportedModelError
from st_plugins.first_modules import elastic_transformer, unwrapped
from st_plugins.losses.bag_of_words import bag_of_words_loss
from st_plugins.losses.batch_checks import check_numbers
from st_plugins.losses.citations import STARBUCKS
from st_plugins.losses.layers import Size, check_sizes, check_weights, full_size, starbucks_menu
from st_plugins.modules import ElasticTransformer
from st_plugins.views import shallow_copy

_MASKING = ("encoder_labels", "decoder_ids", "decoder_labels")


class MaskedAutoencoderLoss(nn.Module):
    """Hidden words guessed from each size's token states, and once more from its text embedding (SMAE).

    For each size (n, d) of a menu, the full one among them::

        T(x)      = LayerNorm(gelu(W[:, :d] x + b))            x: d numbers; W is D x D, shared by all sizes
        logits(x) = E T(x) + c                                 E: the model's own token embeddings (V, D)
        MLM(n, d) = mean over tokens hidden from the encoder of CE(logits(h_n[:d]))
        MAE(n, d) = mean over tokens hidden from the decoder of CE(logits(y))
        loss      = mean over sizes of (MLM + MAE) / 2 + bow_weight * BoW

    h_n are the token states of layer n. The y are those of a decoder: one block that reads the text with more words
    hidden, and T(text embedding at (n, d)) where the text begins. It is too weak to guess alone, so the embedding has
    to hold the text. The embedding is what the model's own pooling makes of layer n; a ``Normalize`` behind it is fine,
    T normalises anyway.

    BoW, of DupMAE, asks all tokens of a text together for its words, at the full size: see
    :func:`~st_plugins.losses.bag_of_words.bag_of_words_loss` of the logits of its ordinary tokens. It readies a model
    whose pooling reads them, as the mean does.

    The head (W, b, LayerNorm, c) and the decoder, at first a copy of the model's first block, belong to the loss. The
    trainer optimises them with the model, and does not save them: a resumed run starts with new ones, unless
    :class:`~st_plugins.training.LossStateCallback` keeps them. No size is recorded as trained, because token states are
    no embeddings yet: go on with :class:`~st_plugins.losses.StarbucksLoss` or :class:`~st_plugins.losses.ElasticLoss`.

    Args:
        model: An elastic model, see :func:`st_plugins.elastic`.
        sizes: Pairs (layer, dim); the full size is added if missing. None takes the menu of ``StarbucksLoss``.
        bow_weight: >= 0; 0.1 in DupMAE. Costs the logits of all tokens, one text at a time.

    Inputs:
        +-----------------+----------+---------------------------------------------------------+
        | Columns         | Labels   | Collator                                                |
        +=================+==========+=========================================================+
        | one, of texts   | none     | ``st_plugins.training.NestedMaskingCollator(model)``    |
        +-----------------+----------+---------------------------------------------------------+

    Requirements:
        One process. In distributed training sentence-transformers synchronises the model and not its losses, so that
        each process would have a head and a decoder of its own. Memory grows with sizes x hidden tokens x vocabulary.

    Raises:
        LossError: If the weight is out of range, the batch does not come from the collator, nothing in it is hidden,
            or the loss is not a number.
        SizeError: If a size does not exist.
        UnsupportedModelError: If the model is not elastic; if token embeddings, token states and text embedding differ
            in width, as in ALBERT, some ELECTRA models, and models with a ``Dense``.

    References:
        Zhuang et al., *Starbucks: Improved Training for 2D Matryoshka Embeddings*, https://arxiv.org/abs/2410.13230,
        SMAE. Xiao et al., *RetroMAE-2: Duplex Masked Auto-Encoder*, https://arxiv.org/abs/2305.02564, whose decoder
        sees other words at each position; the package ``pretense`` has that, and its relatives, for this trainer.
        Differs from the code of Starbucks: the text embedding is the model's own pooling, there always the first
        token, which is the same for a model that pools so; the head starts from random numbers, theirs from BERT's; on
        pre-norm families layers and decoder end in the final norm; a loss that is not a number ends the training, where
        theirs skips the step.

    Example:
        >>> from st_plugins.training import NestedMaskingCollator
        >>> model = st_plugins.load("minilm-elastic")
        >>> loss = MaskedAutoencoderLoss(model)
        >>> loss.sizes
        ((1, 16), (2, 32), (3, 64), (4, 128), (5, 256), (6, 384))
        >>> texts, collator = pairs.select_columns(["anchor"]), NestedMaskingCollator(model)
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=texts, loss=loss, data_collator=collator)
    """

    citation = STARBUCKS

    def __init__(
        self, model: SentenceTransformer, *, sizes: Sequence[Size] | None = None, bow_weight: float = 0.0
    ) -> None:
        super().__init__()
        check_weights(bow_weight=bow_weight)
        full = full_size(model)
        transformer = elastic_transformer(model, "a loss over layers")
        _check_widths(transformer, full[1])
        self.model = model
        self.bow_weight = bow_weight
        self.sizes = (*check_sizes([*starbucks_menu(*full), full] if sizes is None else sizes, full), full)
        self.layers = tuple(sorted({layer for layer, _ in self.sizes}))
        self.head = _Head(transformer.model.get_input_embeddings().weight)
        blocks = follow(transformer.model, find_blocks(transformer.model).path)
        self.decoder = copy.deepcopy(blocks[0]).requires_grad_(True)

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Tensor:
        """The loss of one batch, a scalar; there are no ``labels``."""
        features, encoder_labels, decoder_ids, decoder_labels = _unpacked(list(sentence_features))
        self._clear_own_gradients()
        stacked = self.model({**features, "layers": self.layers})
        states = stacked["token_embeddings"].unflatten(0, (len(self.layers), -1))  # (S, B, T, D)
        embeddings = stacked["sentence_embedding"].unflatten(0, (len(self.layers), -1))  # (S, B, D)
        vocabulary = elastic_transformer(self.model, "a loss over layers").model.get_input_embeddings().weight  # (V, D)
        total = vocabulary.new_zeros(())
        for layer, dim in self.sizes:
            index = self.layers.index(layer)
            guess = self.head.cross_entropy(states[index][..., :dim], encoder_labels, vocabulary)
            start = self.head(embeddings[index][:, :dim])  # (B, D)
            decoded = self._decode({**features, "input_ids": decoder_ids}, start)  # (B, T, D)
            total = total + (guess + self.head.cross_entropy(decoded, decoder_labels, vocabulary)) / 2
        loss = total / len(self.sizes)
        if self.bow_weight:
            bags = self._bags(states[-1], features, encoder_labels, vocabulary)
            loss = loss + self.bow_weight * torch.stack(bags).mean()
        check_numbers("The loss", [loss])
        return loss

    def _bags(
        self, states: Tensor, features: dict[str, Any], encoder_labels: Tensor, vocabulary: Tensor
    ) -> list[Tensor]:
        """The bag-of-words loss of each text that has words."""
        ids = encoder_labels.where(encoder_labels >= 0, features["input_ids"])  # before anything was hidden
        special = torch.tensor(sorted({*unwrapped(self.model).tokenizer.all_special_ids}), device=ids.device)
        is_word = (features["attention_mask"] > 0) & ~torch.isin(ids, special)  # (B, T)
        return [
            bag_of_words_loss(self.head.logits(states[row, words], vocabulary), ids[row, words])
            for row, words in enumerate(is_word)
            if words.any()
        ]

    def _decode(self, features: dict[str, Any], start: Tensor) -> Tensor:
        transformer = elastic_transformer(self.model, "a loss over layers")
        self.decoder.train(unwrapped(self.model).training)
        network = decoding_view(transformer.model, self.decoder, start, features["attention_mask"])
        return Transformer.forward(shallow_copy(transformer, model=network), features)["token_embeddings"]

    def _clear_own_gradients(self) -> None:
        """Follow a ``model.zero_grad()``: sentence-transformers 5 clears the model after a step and not the loss."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if trained and all(parameter.grad is None for parameter in trained):
            self.head.zero_grad()
            self.decoder.zero_grad()

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says about the training."""
        return {"sizes": [list(size) for size in self.sizes], "bow_weight": self.bow_weight}


class _Head(nn.Module):
    """Guesses tokens from the first coordinates of their states; the vocabulary is the model's."""

    def __init__(self, vocabulary: Tensor) -> None:
        super().__init__()
        tokens, width = vocabulary.shape
        place: Any = {"device": vocabulary.device, "dtype": vocabulary.dtype}
        self.transform = nn.Linear(width, width, **place)
        nn.init.zeros_(self.transform.bias)
        self.norm = nn.LayerNorm(width, eps=1e-12, **place)
        self.bias = nn.Parameter(torch.zeros(tokens, **place))

    def forward(self, states: Tensor) -> Tensor:
        """(..., d) to (..., D)."""
        weight = self.transform.weight[:, : states.shape[-1]]
        return self.norm(nn.functional.gelu(nn.functional.linear(states, weight, self.transform.bias)))

    def cross_entropy(self, states: Tensor, labels: Tensor, vocabulary: Tensor) -> Tensor:
        """Mean over the hidden tokens of (B, T, d), the only ones that meet the vocabulary."""
        hidden = labels >= 0  # (B, T)
        return nn.functional.cross_entropy(self.logits(states[hidden], vocabulary), labels[hidden])

    def logits(self, states: Tensor, vocabulary: Tensor) -> Tensor:
        """(N, d) to (N, V)."""
        return nn.functional.linear(self(states), vocabulary, self.bias)


def _check_widths(transformer: ElasticTransformer, width: int) -> None:
    tokens = transformer.model.get_input_embeddings().weight.shape[1]
    states = transformer.get_embedding_dimension()
    if not tokens == states == width:
        raise UnsupportedModelError(
            "Token embeddings, token states and text embedding must have one width, those of "
            f"{type(transformer.model).__name__} have {tokens}, {states} and {width}. "
            "Pre-train without modules that change the width; ALBERT and factorised ELECTRA models cannot be."
        )
    own_blocks(transformer.model, "its layers cannot be read apart. Pre-train a model with blocks of their own.")


def _unpacked(columns: list[dict[str, Any]]) -> tuple[dict[str, Any], Tensor, Tensor, Tensor]:
    """What the model reads, and what the collator added for the loss."""
    if len(columns) != 1 or any(name not in columns[0] for name in _MASKING):
        raise LossError(
            f"The batch must be one column masked for this loss, with {', '.join(_MASKING)}, got "
            f"{[sorted(column) for column in columns]}. Give the trainer "
            "data_collator=st_plugins.training.NestedMaskingCollator(model)."
        )
    features = {name: value for name, value in columns[0].items() if name not in _MASKING}
    encoder_labels, decoder_ids, decoder_labels = (columns[0][name] for name in _MASKING)
    if not ((encoder_labels >= 0).any() and (decoder_labels >= 0).any()):
        raise LossError(
            "A batch must have at least one hidden token, got none: its texts have no word that the tokenizer knows. "
            "Filter out empty texts, and check that the tokenizer knows the language."
        )
    return features, encoder_labels, decoder_ids, decoder_labels
