"""Embeds long texts piece by piece and averages: parallel context windows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from tqdm.auto import trange

from st_plugins.counts import is_count
from st_plugins.errors import InputError, SizeError, UnsupportedModelError
from st_plugins.fingerprints import fingerprint
from st_plugins.identity import changed
from st_plugins.long_texts.copied_transformers import copied_transformer
from st_plugins.special_tokens import tokens_around
from st_plugins.usual_prompts import prompt_of
from st_plugins.width import embedding_width

_NO_LIMIT = 10**9
_UNIT = 1e-2  # from 1, as far as half precision gets
_SHORTEST = 1e-12  # a mean of opposite vectors has no direction, and stays zero


class ContextWindows:
    """An encoder that reads texts of any length with a model that does not.

    A text of more than N tokens is cut into windows of N, each with the special tokens and the prompt of a text of its
    own. They follow one another without overlap, except the last, which is the last N tokens. The embedding of the text
    is the mean of theirs, of unit length again if all of them have it. A text that fits is embedded as by the model.
    Time grows with the length of a text and not with its square, but no token sees another window.

    Not a ``SentenceTransformer``: ``encode``, ``encode_query`` and ``encode_document`` return float32 arrays, as
    ``ElasticEmbeddings(encoder=...)`` and :func:`st_plugins.adapt_to_index` want them.

    Args:
        model: Starts with a ``Transformer``, elastic ones at full depth. It must not change while this is in use.
        window: N, tokens with special ones and prompt; None takes ``model.max_seq_length``, if it has one.

    Raises:
        SizeError: If the window is longer than the model reads, or left out where the model has no limit.
        UnsupportedModelError: If the model starts with something else, or reads chat messages only.

    References:
        Ratner et al., https://arxiv.org/abs/2212.10947; for embeddings LongEmbed, https://arxiv.org/abs/2404.12096.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> windows = ContextWindows(model)
        >>> windows.encode_document(["A short text", "A long one " * 500]).shape
        (2, 384)
    """

    def __init__(self, model: SentenceTransformer, *, window: int | None = None) -> None:
        longest = model.max_seq_length
        if longest is None or longest >= _NO_LIMIT:  # what transformers writes for tokenizers without one
            longest, bounds = _NO_LIMIT, "from 1, as this model has no max_seq_length of its own"
        else:
            window, bounds = longest if window is None else window, f"from 1 to {longest}, model.max_seq_length"
        if not is_count(window) or window > longest:
            raise SizeError(f"window must be an integer {bounds}, got {window!r}.")
        self.model = model
        self.window = window
        self._reader = copied_transformer(model, "ContextWindows")
        self._reader.max_seq_length = self._reader.tokenizer.model_max_length = _NO_LIMIT
        self._before, self._behind = tokens_around(self._reader.tokenizer)

    @property
    def fingerprint(self) -> str:
        """Identity of the vectors; another window has another."""
        return changed(fingerprint(self.model), {"windows": self.window})

    def encode_query(self, texts: Sequence[str], **options: Any) -> np.ndarray:
        """As :meth:`encode`, with the prompt the model has for queries."""
        return self._encode(texts, "query", **options)

    def encode_document(self, texts: Sequence[str], **options: Any) -> np.ndarray:
        """As :meth:`encode`, with the prompt the model has for documents."""
        return self._encode(texts, "document", **options)

    def encode(self, texts: Sequence[str], **options: Any) -> np.ndarray:
        """Embed texts.

        Args:
            texts: B texts.
            **options: ``batch_size``, windows at once; ``prompt``, before each window, in place of the model's;
                ``truncate_dim``, in place of the model's; ``show_progress_bar``.

        Returns:
            numpy.ndarray: (B, D) float32.

        Raises:
            InputError: If texts are none, or the prompt fills a window.
        """
        return self._encode(texts, None, **options)

    def _encode(
        self,
        texts: Sequence[str],
        task: str | None,
        *,
        batch_size: int = 32,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        show_progress_bar: bool | None = False,
    ) -> np.ndarray:
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"texts must be a list of texts, got {type(texts).__name__}. Write [text] for one text.")
        prompt = prompt_of(self.model, task) if prompt is None else prompt
        prompt_length = len(self._ids(prompt, "")) - self._behind if prompt else 0
        windows = [self._windows(self._ids(text, prompt), max(prompt_length, self._before)) for text in texts]
        every = [window for own in windows for window in own]
        vectors = self._embed(every, prompt_length, task, batch_size, show_progress_bar)
        means = np.zeros((len(texts), vectors.shape[1]), np.float32)
        ends = np.cumsum([len(own) for own in windows])
        for row, (own, end) in enumerate(zip(windows, ends, strict=True)):
            means[row] = vectors[end - len(own) : end].mean(axis=0)
            lengths = np.linalg.norm(vectors[end - len(own) : end], axis=1)
            if len(own) > 1 and (abs(lengths - 1) < _UNIT).all():
                means[row] /= max(np.linalg.norm(means[row]), _SHORTEST)
        return means[:, : self.model.truncate_dim if truncate_dim is None else truncate_dim]

    def _ids(self, text: str, prompt: str) -> list[int]:
        features = self._reader.preprocess([text], prompt=prompt or None)
        if features.get("modality", "text") != "text":
            raise UnsupportedModelError(
                "ContextWindows needs a model that reads plain text, got one of chat messages. "
                "Load it with modality_config limited to text."
            )
        return features["input_ids"][0].tolist()

    def _windows(self, ids: list[int], head: int) -> list[list[int]]:
        """The ids of each window; the first ``head`` ones, specials and prompt, begin each."""
        if len(ids) <= self.window:
            return [ids]
        end = len(ids) - self._behind
        room = self.window - head - self._behind
        if room < 1:
            raise InputError(
                f"A window of {self.window} tokens has no room beside {head} of the prompt and special tokens. "
                "Take a longer window or a shorter prompt."
            )
        starts = [*range(head, end - room, room), end - room]
        return [[*ids[:head], *ids[start : start + room], *ids[end:]] for start in starts]

    @torch.inference_mode()
    def _embed(
        self, windows: list[list[int]], prompt_length: int, task: str | None, batch_size: int, bar: bool | None
    ) -> np.ndarray:
        """(windows, D), whatever the order they are computed in."""
        self.model.eval()
        order = sorted(range(len(windows)), key=lambda place: -len(windows[place]))
        found = [np.zeros((0, embedding_width(self.model.children())), np.float32)]
        for start in trange(0, len(windows), batch_size, desc="Batches", disable=not bar):
            batch = {"input_ids": [windows[place] for place in order[start : start + batch_size]]}
            features = dict(self._reader.tokenizer.pad(batch, return_tensors="pt").to(self.model.device))
            if prompt_length:
                features["prompt_length"] = prompt_length
            found.append(self.model(features, task=task)["sentence_embedding"].float().cpu().numpy())
        vectors = np.concatenate(found)
        return vectors[np.argsort(order)]
