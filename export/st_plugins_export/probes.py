"""The texts an export is compared with torch on, and the proof that both sides see the same tokens."""

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Any

from sentence_transformers import SentenceTransformer

from st_plugins.errors import ParityError
from st_plugins_export.opened import OpenedExport

PROBE_TEXTS = (
    "a",
    "Two words",
    "An odd number of words is here",
    "naïve café, Привет, 東京, नमस्ते, 🌍🚀",
    '  spaces\tand\nlines, "quotes" and 3.14159 % (brackets) [MASK] </s>',
    "A sentence of ordinary length, as people write them to each other when they talk about the weather at noon.",
)
_LARGE_BATCH = 32
# For a model that leaves prompts out of its pooling and has none of its own.
_PROMPT = "Two words: "
# Longer texts are compared by their tokens alone: eager attention over 8192 of them needs gigabytes.
_MOST_TOKENS = 1024


def token_batches(
    model: SentenceTransformer, opened: OpenedExport, texts: Sequence[str] | None
) -> Iterator[tuple[list[str], str, list[Any]]]:
    """Batches to compare.

    Args:
        model: What was exported, on the CPU.
        opened: The export.
        texts: Compare these, in batches of 32 and without a prompt; None for probes of all kinds.

    Yields:
        tuple: Texts, the prompt in front of them, and their tokens as ``opened`` gives them.

    Raises:
        ParityError: If the model sees other tokens.
    """
    if texts is None:
        if not probe_texts(model):
            raise ParityError(
                "The tokenizer must know a word of the probes, or have an unknown token, and knows none: nothing would "
                "be compared. Give the tokenizer an unknown token."
            )
        batches = ((_with_tokens(model, batch, prompt), prompt) for batch, prompt in _probe_batches(model, opened))
        over_limit = _with_tokens(model, [_over_limit(opened)], "")
        if over_limit:
            _same_tokens(model, opened, over_limit, "")
    else:
        batches = ((list(texts[start : start + _LARGE_BATCH]), "") for start in range(0, len(texts), _LARGE_BATCH))
    for batch, prompt in batches:
        if batch:
            yield batch, prompt, _same_tokens(model, opened, batch, prompt)


def probe_texts(model: SentenceTransformer) -> list[str]:
    """Those of ``PROBE_TEXTS`` that have tokens: a ``StaticEmbedding`` may know none of a text's words."""
    return _with_tokens(model, list(PROBE_TEXTS), "")


def _with_tokens(model: SentenceTransformer, texts: list[str], prompt: str) -> list[str]:
    return [text for text, ids in zip(texts, tokens_of(model, texts, prompt), strict=True) if ids]


def tokens_of(model: SentenceTransformer, texts: Sequence[str], prompt: str = "") -> list[list[int]]:
    """The tokens that a model sees of each text, without padding."""
    features = model.preprocess(list(texts), prompt=prompt)
    ids = features["input_ids"]
    if "offsets" in features:  # of a StaticEmbedding, which takes all texts as one row
        ends = [*features["offsets"].tolist()[1:], len(ids)]
        return [ids[start:end].tolist() for start, end in zip(features["offsets"].tolist(), ends, strict=True)]
    return [row[mask.bool()].tolist() for row, mask in zip(ids, features["attention_mask"], strict=True)]


def _probe_batches(plain: SentenceTransformer, opened: OpenedExport) -> Iterator[tuple[list[str], str]]:
    """Texts and the prompt in front of them."""
    limit = opened.manifest.max_seq_length
    longest = min(limit or _MOST_TOKENS, _MOST_TOKENS)
    long = [" ".join(["a"] * count) for count in (31, max(1, longest - 2))]  # [CLS] and [SEP] take two
    if limit == longest:
        long.append(_over_limit(opened))
    alone = [*PROBE_TEXTS, *long]
    prompts = list(plain.prompts.values())
    if opened.manifest.special_ids is not None and not any(prompts):
        prompts.append(_PROMPT)
    for prompt in dict.fromkeys(["", *prompts]):
        for text in alone:
            yield [text], prompt
        yield [PROBE_TEXTS[0], long[-1], PROBE_TEXTS[-1]], prompt
        yield list(islice(cycle([*PROBE_TEXTS, long[0]]), _LARGE_BATCH)), prompt


def _over_limit(opened: OpenedExport) -> str:
    return " ".join(["word"] * (opened.manifest.max_seq_length or _MOST_TOKENS) * 2)


def _same_tokens(plain: SentenceTransformer, opened: OpenedExport, texts: list[str], prompt: str) -> list[Any]:
    """The tokens of the export, after they were compared with those of the model."""
    expected = tokens_of(plain, texts, prompt)
    encodings = opened.tokenize([prompt + text for text in texts])
    for text, ids, encoding in zip(texts, expected, encodings, strict=True):
        if ids != encoding.ids:
            raise ParityError(
                f"tokenizer.json gives other tokens than the model for {(prompt + text)[:60]!r}. "
                "This tokenizer does something in Python that the file does not hold, so it cannot be exported."
            )
    return encodings
