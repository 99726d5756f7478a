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
        _same_tokens(model, opened, [_over_limit(opened)], "")
        batches = _probe_batches(model, opened)
    else:
        batches = ((list(texts[start : start + _LARGE_BATCH]), "") for start in range(0, len(texts), _LARGE_BATCH))
    for batch, prompt in batches:
        yield batch, prompt, _same_tokens(model, opened, batch, prompt)


def _probe_batches(plain: SentenceTransformer, opened: OpenedExport) -> Iterator[tuple[list[str], str]]:
    """Texts and the prompt in front of them."""
    limit = opened.manifest.max_seq_length
    longest = min(limit or _MOST_TOKENS, _MOST_TOKENS)
    long = [" ".join(["a"] * count) for count in (31, max(1, longest - 2))]  # [CLS] and [SEP] take two
    if limit == longest:
        long.append(_over_limit(opened))
    alone = [*PROBE_TEXTS, *long]
    for prompt in dict.fromkeys(["", *plain.prompts.values()]):
        for text in alone:
            yield [text], prompt
        yield [PROBE_TEXTS[0], long[-1], PROBE_TEXTS[-1]], prompt
        yield list(islice(cycle([*PROBE_TEXTS, long[0]]), _LARGE_BATCH)), prompt


def _over_limit(opened: OpenedExport) -> str:
    return " ".join(["word"] * (opened.manifest.max_seq_length or _MOST_TOKENS) * 2)


def _same_tokens(plain: SentenceTransformer, opened: OpenedExport, texts: list[str], prompt: str) -> list[Any]:
    """The tokens of the export, after they were compared with those of the model."""
    features = plain.preprocess(texts, prompt=prompt)
    encodings = opened.tokenize([prompt + text for text in texts])
    rows = zip(texts, features["input_ids"], features["attention_mask"], encodings, strict=True)
    for text, ids, mask, encoding in rows:
        if ids[mask.bool()].tolist() != encoding.ids:
            raise ParityError(
                f"tokenizer.json gives other tokens than the model for {(prompt + text)[:60]!r}. "
                "This tokenizer does something in Python that the file does not hold, so it cannot be exported."
            )
    return encodings
