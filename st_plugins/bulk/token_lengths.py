"""How long texts are in the eyes of an encoder."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from st_plugins.usual_prompts import prompt_of


def token_lengths(encoder: Any, texts: Sequence[str], *, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of each text after cutting, prompt and special tokens included, and which texts were cut.

    Args:
        encoder: A SentenceTransformer or an ``OnnxEncoder``.
        texts: N texts without lone surrogates.
        task: "document" or "query".

    Returns:
        tuple: (N,) int64 and (N,) bool.

    Example:
        >>> encoder = st_plugins.load("minilm-elastic")
        >>> lengths, is_cut = token_lengths(encoder, ["A text", "word " * 1000], task="document")
        >>> lengths.tolist(), is_cut.tolist()
        ([4, 256], [False, True])
    """
    if not texts:  # transformers' tokenizers stumble over an empty list
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)
    complete = [prompt_of(encoder, task) + text for text in texts]
    tokenizer = encoder.tokenizer
    if hasattr(tokenizer, "encode_batch_fast"):  # of the tokenizers library; it cuts if it was told to
        encodings = tokenizer.encode_batch_fast(complete)
        is_cut = np.array([bool(encoding.overflowing) for encoding in encodings], dtype=bool)
        return np.array([len(encoding) for encoding in encodings], dtype=np.int64), is_cut
    ids = tokenizer(complete, truncation=False, return_attention_mask=False, verbose=False)["input_ids"]
    lengths = np.array([len(some) for some in ids], dtype=np.int64)
    limit = encoder.max_seq_length
    return (lengths, np.zeros(len(ids), dtype=bool)) if limit is None else (lengths.clip(max=limit), lengths > limit)
