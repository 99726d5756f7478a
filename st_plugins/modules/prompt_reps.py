"""A chat model as an encoder, by asking it for one word: PromptReps. Trains nothing, generates nothing."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from sentence_transformers.sentence_transformer.modules import Transformer
from sentence_transformers.util import batch_to_device
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from st_plugins.chat_prompts import TEXT, chat_frame, framed_ids
from st_plugins.errors import InputError
from st_plugins.refused_texts import refused_texts
from st_plugins.views import shallow_copy

SYSTEM_MESSAGE = "You are an assistant that understands human language well."
REQUEST = "Name the one word in lowercase that stands best for this text in a search engine. Give that word only."
# The quote is open: what the model thinks of next is the word itself, without a space before it.
_ANSWER = 'The word is: "'
_MOST_TERMS = 128
_TERMS_FOR_NONE = 10
_IMPACT = 100
_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")  # with apostrophes inside


class PromptReps(Transformer):
    """A chat model that was never trained to embed, asked which one word stands for a text.

    It reads a chat that ends in the middle of its own answer, ``The word is: "``, and two things are taken at that last
    token: its final state, and its logits z over the vocabulary for the word it would write::

        dense  = final state of the last token                           (D,)
        sparse = round(100 log(1 + relu(z))) at the tokens of the text's own words, the 128 greatest      (V,)

    A text's own words are its lowercased words but stop words, each tokenized by itself. Where none of their tokens
    counts, the ten greatest of the vocabulary are taken. Dense vectors are compared by cosine, sparse ones by dot
    product, and both together find more than either: :func:`st_plugins.fuse_scores`. Quality comes with size; small
    models find little.

    In a ``SentenceTransformer`` it gives dense vectors, and with ``representation="sparse"`` in a ``SparseEncoder``
    sparse ones; :meth:`represented_as` gives the other one around the same network, and :meth:`encode_query` and
    :meth:`encode_document` give both by one run of it. Texts longer than ``max_seq_length`` lose their end; the chat
    around them stays whole. Batches are padded on the left, and what a text gets does not depend on its batch.

    It goes first, and needs no pooling. What a ``SparseEncoder`` saved is loaded by ``SparseEncoder``.

    Args:
        model_name_or_path: As for ``Transformer``; a causal language model whose tokenizer has a chat template.
        representation: What ``sentence_embedding`` is, ``"dense"`` or ``"sparse"``.
        expand: Whether sparse vectors may hold tokens of words that the text does not have.
        system_message: First turn; None for templates that know no system turn.
        request: What stands behind the text.
        stop_words: Words that do not count as the text's own, in lowercase; None for the English ones of scikit-learn.
        **kwargs: As for ``Transformer``.

    Reads: texts; with ``task="query"``, as in ``encode_query``, they are called a query, else a passage. A prompt of
    the host is put before the text, and its words do not count as the text's own.

    Writes: ``dense_embedding`` (B, D), ``sparse_embedding`` (B, V) in float32 or wider, and one of them as
    ``sentence_embedding``.

    Raises:
        UnsupportedModelError: If the tokenizer has no chat template, or one that cannot leave an answer open.
        InputError: If the representation is neither of the two, the input is no text, or ``max_seq_length`` leaves no
            room for the chat.

    References:
        Zhuang et al., *PromptReps: Prompting Large Language Models to Generate Dense and Sparse Representations for
        Zero-Shot Document Retrieval*, https://arxiv.org/abs/2404.18424. The wording is ours, turns are those of the
        model's template (the authors' files hold backslash and n where they mean new lines), words are found by a
        regular expression and stop words are scikit-learn's instead of NLTK's. So vectors are not the published ones.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> tokenizer = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2").tokenizer
        >>> tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}"
        >>> _ = tokenizer.save_pretrained("tiny-chat")
        >>> config = LlamaConfig(vocab_size=30522, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
        >>> LlamaForCausalLM(config).save_pretrained("tiny-chat")
        >>> reps = PromptReps("tiny-chat")
        >>> SentenceTransformer(modules=[reps]).encode_query("How do I sort a list?").shape
        (32,)
        >>> dense, sparse = reps.encode_document(["Sorting is ordering.", "Rain."])
        >>> dense.shape, sparse.shape, sparse.is_sparse
        (torch.Size([2, 32]), torch.Size([2, 30522]), True)
    """

    config_keys: ClassVar[list[str]] = [
        *Transformer.config_keys,
        "representation",
        "expand",
        "system_message",
        "request",
        "stop_words",
    ]

    def __init__(
        self,
        model_name_or_path: str,
        *,
        representation: Literal["dense", "sparse"] = "dense",
        expand: bool = False,
        system_message: str | None = SYSTEM_MESSAGE,
        request: str = REQUEST,
        stop_words: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model_name_or_path, **{**kwargs, "transformer_task": "text-generation"})
        self.representation = _checked(representation)
        self.expand = expand
        self.system_message = system_message
        self.request = request
        self.stop_words = sorted(ENGLISH_STOP_WORDS if stop_words is None else stop_words)
        self._frame("Passage")  # refuses a template that cannot be used

    def represented_as(self, representation: Literal["dense", "sparse"]) -> Self:
        """One around the same network and tokenizer that gives the other vectors as ``sentence_embedding``."""
        other = shallow_copy(self)
        other.representation = _checked(representation)
        return other

    def get_embedding_dimension(self) -> int:
        """D for dense vectors, the size of the vocabulary for sparse ones."""
        if self.representation == "dense":
            return super().get_embedding_dimension()
        return self.model.get_output_embeddings().weight.shape[0]

    def preprocess(
        self, inputs: Sequence[str], prompt: str | None = None, task: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Chats as token ids, padded on the left, and tokens of each text's own words; ``kwargs`` are the host's."""
        texts = list(inputs)
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"PromptReps embeds texts, got {type(text).__name__} at row {row} of the batch.")
        if not texts:
            return {}
        frame = self._frame("Query" if task == "query" else "Passage")
        with refused_texts(texts):
            prompted = [(prompt or "") + text for text in texts]
            rows = framed_ids(self.tokenizer, prompted, frame, self.max_seq_length or float("inf"))
            word_ids = self._word_ids(texts)
        padding = self.tokenizer.pad_token_id or 0  # masked: any token would do
        return {
            "input_ids": _left_padded(rows, padding),
            "attention_mask": _left_padded([[1] * len(row) for row in rows], 0),
            "word_ids": word_ids,
            "modality": "text",
        }

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:  # the host's
        """Read the chats; see the class."""
        mask = features["attention_mask"]
        outputs = self.model(
            input_ids=features["input_ids"],
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp_min(0),  # padding takes no position
            logits_to_keep=1,
            output_hidden_states=True,  # of which the last is behind the final norm
            use_cache=False,
        )
        features["dense_embedding"] = outputs.hidden_states[-1][:, -1]  # (B, D)
        features["sparse_embedding"] = self._impacts(outputs.logits[:, -1], features["word_ids"])  # (B, V)
        features["sentence_embedding"] = features[f"{self.representation}_embedding"]
        return features

    def encode_query(self, texts: Sequence[str], *, batch_size: int = 32) -> tuple[Tensor, Tensor]:
        """Dense vectors (n, D) and sparse ones (n, V), a sparse tensor, of queries.

        Args:
            texts: n queries.
            batch_size: How many are read at once.

        Returns:
            tuple: On the device of the network.
        """
        return self._encode(texts, "query", batch_size)

    def encode_document(self, texts: Sequence[str], *, batch_size: int = 32) -> tuple[Tensor, Tensor]:
        """As :meth:`encode_query`, of documents."""
        return self._encode(texts, "document", batch_size)

    @torch.inference_mode()
    def _encode(self, texts: Sequence[str], task: str, batch_size: int) -> tuple[Tensor, Tensor]:
        texts = list(texts)
        if not texts:
            raise InputError("texts must hold at least one text, got none.")
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))  # alike lengths need little padding
        dense, sparse = [], []
        for start in range(0, len(order), batch_size):
            features = self.preprocess([texts[row] for row in order[start : start + batch_size]], task=task)
            written = self(batch_to_device(features, self.model.device))
            dense.append(written["dense_embedding"])
            sparse.append(written["sparse_embedding"].to_sparse())
        back = torch.tensor(order).argsort().to(self.model.device)
        return torch.cat(dense)[back], torch.cat(sparse).index_select(0, back).coalesce()

    def _frame(self, kind: str) -> tuple[str, str]:
        system = [] if self.system_message is None else [{"role": "system", "content": self.system_message}]
        user = {"role": "user", "content": f'{kind}: "{TEXT}". {self.request}'}
        return chat_frame(self.tokenizer, [*system, user, {"role": "assistant", "content": _ANSWER}])

    def _word_ids(self, texts: list[str]) -> Tensor:
        """Tokens of each text's own words, (B, most), filled up with -1."""
        stop_words = set(self.stop_words)
        words = [set(_WORD.findall(text.lower())) - stop_words for text in texts]
        every = sorted(set().union(*words))
        pieces = self.tokenizer(every, add_special_tokens=False, verbose=False)["input_ids"] if every else []
        of_word = dict(zip(every, pieces, strict=True))
        rows = [sorted({token for word in own for token in of_word[word]}) for own in words]
        return pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True, padding_value=-1)

    def _impacts(self, logits: Tensor, word_ids: Tensor) -> Tensor:
        """Integers (B, V) from logits (B, V)."""
        weights = _IMPACT * F.relu(logits.to(torch.promote_types(logits.dtype, torch.float32))).log1p()
        counted = weights
        if not self.expand:
            # Column 0 is for the -1 of texts with fewer words.
            is_word = torch.zeros(len(weights), weights.shape[1] + 1, dtype=torch.bool, device=weights.device)
            counted = weights * is_word.scatter_(1, word_ids + 1, True)[:, 1:]
        is_empty = counted.amax(dim=1, keepdim=True).round() == 0  # (B, 1)
        counted = torch.where(is_empty, _greatest(weights, _TERMS_FOR_NONE), _greatest(counted, _MOST_TERMS))
        return counted.round()

    def __repr__(self) -> str:
        return f"PromptReps({self.representation!r}, {super().__repr__()})"


def _greatest(weights: Tensor, count: int) -> Tensor:
    """Rows (B, V) with zeros at all but their greatest numbers."""
    values, places = weights.topk(min(count, weights.shape[1]), dim=1)
    return torch.zeros_like(weights).scatter_(1, places, values)


def _left_padded(rows: list[list[int]], filling: int) -> Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([[filling] * (longest - len(row)) + row for row in rows])


def _checked(representation: Any) -> Any:
    if representation not in ("dense", "sparse"):
        raise InputError(f"representation must be 'dense' or 'sparse', got {representation!r}.")
    return representation
