"""The texts an export is compared with torch on, and the proof that both sides see the same tokens."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice
from typing import Any

from sentence_transformers import SentenceTransformer
from torch import nn

from st_plugins.errors import InputError, ParityError
from st_plugins_export.opened import OpenedExport
from st_plugins_export.tried import Tried

PROBE_TEXTS = {
    "one word": "a",
    "empty": "",
    "two words": "Two words",
    "seven words": "An odd number of words is here",
    "unicode": "naïve café, Привет, 東京, नमस्ते, 🌍🚀",
    "markup": '  spaces\tand\nlines, "quotes" and 3.14159 % (brackets) [MASK] </s>',
    "sentence": "A sentence of ordinary length, as people write them to each other when they talk about the weather.",
}
_LARGE_BATCH = 32
# For a model that leaves prompts out of its pooling and has none of its own.
_PROMPT = "Two words: "
# Longer texts are compared by their tokens alone: eager attention over 8192 of them needs gigabytes.
_MOST_TOKENS = 1024
# A batch of 32 holds this many texts of full length.
_LONG_ROWS = 8
# They are shorter where it would cost more: memory for attention, and weights times tokens. BERT-base gets its 512.
_MOST_TOKENS_OF_LARGE_BATCH = 512
_MOST_WORK = 1.5e12
_FEWEST_TOKENS = 8


@dataclass(frozen=True)
class ProbeBatch:
    """Texts to compare together.

    Args:
        texts: Without the prompt.
        prompt: In front of each.
    """

    texts: list[str]
    prompt: str = ""


@dataclass(frozen=True)
class Probes:
    """All that one export is compared on, whatever the graph.

    Args:
        batches: What is run.
        tokens_first: Texts whose tokens are compared before anything is run; they may be too long for that.
        tried: What the report says about them.
    """

    batches: tuple[ProbeBatch, ...]
    tokens_first: tuple[str, ...]
    tried: Tried


def find_probes(model: SentenceTransformer, opened: OpenedExport, texts: Sequence[str] | None = None) -> Probes:
    """The probes of an export: empty, short, odd, full-length and over-long texts, alone, in threes and by 32.

    Every prompt is tried with all of them. One more batch of 32, without a prompt, has eight texts of full length among
    short ones. For a large model it is shorter, so that it costs no more than BERT-base's: texts of full length are
    then run alone and in a batch of three only.

    Args:
        model: What was exported.
        opened: The export.
        texts: Compare these instead, in batches of 32 and without a prompt.

    Raises:
        ParityError: If the tokenizer knows none of the probes.
        InputError: If ``texts`` is no list of at least one text.
    """
    if texts is not None:
        if isinstance(texts, str) or not len(texts):
            raise InputError(
                f"texts must be a list of at least one text, got {texts!r:.60}. Leave it out for the probes."
            )
        starts = range(0, len(texts), _LARGE_BATCH)
        batches = tuple(ProbeBatch(list(texts[start : start + _LARGE_BATCH])) for start in starts)
        return Probes(batches, (), _tried(opened, batches, {}))
    if not _known(opened, PROBE_TEXTS):
        raise ParityError(
            "The tokenizer must know a word of the probes, or have an unknown token, and knows none: nothing would "
            "be compared. Give the tokenizer an unknown token."
        )
    limit = opened.manifest.max_seq_length
    kinds = {**PROBE_TEXTS, **_long_texts(opened)}
    first = _known(opened, {f"{'over the limit' if limit else 'very long'}, tokens only": _over_limit(opened)})
    batches = tuple(_probe_batches(model, opened, kinds))
    named = _known(opened, kinds) | ({} if "over the limit" in kinds else first)
    return Probes(batches, tuple(first.values()), _tried(opened, batches, named))


def token_batches(
    model: SentenceTransformer, opened: OpenedExport, probes: Probes
) -> Iterator[tuple[list[str], str, list[Any]]]:
    """Batches to compare, with their tokens.

    Args:
        model: What was exported, on the CPU.
        opened: The export.
        probes: From :func:`find_probes`.

    Yields:
        tuple: Texts, the prompt in front of them, and their tokens as ``opened`` gives them.

    Raises:
        ParityError: If the model sees other tokens.
    """
    if probes.tokens_first:
        _same_tokens(model, opened, list(probes.tokens_first), "")
    for batch in probes.batches:
        yield batch.texts, batch.prompt, _same_tokens(model, opened, batch.texts, batch.prompt)


def probe_texts(model: SentenceTransformer) -> list[str]:
    """Those of ``PROBE_TEXTS`` that have tokens: a ``StaticEmbedding`` may know none of a text's words."""
    texts = list(PROBE_TEXTS.values())
    return [text for text, ids in zip(texts, tokens_of(model, texts), strict=True) if ids]


def tokens_of(model: SentenceTransformer, texts: Sequence[str], prompt: str = "") -> list[list[int]]:
    """The tokens that a model sees of each text, without padding."""
    features = model.preprocess(list(texts), prompt=prompt)
    ids = features["input_ids"]
    if "offsets" in features:  # of a StaticEmbedding, which takes all texts as one row
        ends = [*features["offsets"].tolist()[1:], len(ids)]
        return [ids[start:end].tolist() for start, end in zip(features["offsets"].tolist(), ends, strict=True)]
    return [row[mask.bool()].tolist() for row, mask in zip(ids, features["attention_mask"], strict=True)]


def _known(opened: OpenedExport, kinds: Mapping[str, str], prompt: str = "") -> dict[str, str]:
    """Those that have tokens; models and encoders refuse the others."""
    return {kind: text for kind, text in kinds.items() if len(opened.tokenizer.encode(prompt + text))}


def _long_texts(opened: OpenedExport) -> dict[str, str]:
    """Of an odd and of an even number of tokens, as many as the model takes, and more."""
    limit = opened.manifest.max_seq_length
    longest = min(limit or _MOST_TOKENS, _MOST_TOKENS)
    found = {f"{count} tokens": _of_tokens(opened, count) for count in (32, 33) if count < longest}
    found["full length"] = _of_tokens(opened, longest)
    return {**found, "over the limit": _over_limit(opened)} if limit == longest else found


def _probe_batches(model: SentenceTransformer, opened: OpenedExport, kinds: Mapping[str, str]) -> Iterator[ProbeBatch]:
    short = {*PROBE_TEXTS, "32 tokens", "33 tokens"}
    prompts = list(model.prompts.values())
    if opened.manifest.special_ids is not None and not any(prompts):
        prompts.append(_PROMPT)
    for prompt in dict.fromkeys(["", *prompts]):
        known = _known(opened, kinds, prompt)
        alone = list(known.values())
        for text in alone:
            yield ProbeBatch([text], prompt)
        if len(alone) > 2:
            yield ProbeBatch([alone[0], alone[-1], alone[len(alone) // 2]], prompt)
        mixed = [text for kind, text in known.items() if kind in short]
        yield ProbeBatch(_filled(mixed, _LARGE_BATCH), prompt)
        if not prompt and "full length" in known:
            long = _of_tokens(opened, _affordable(model, opened))
            if long != known["full length"]:
                yield ProbeBatch([long])
            rest = _filled(mixed, _LARGE_BATCH - _LONG_ROWS)
            yield ProbeBatch([text for start in range(0, len(rest), 3) for text in (*rest[start : start + 3], long)])


def _filled(texts: Sequence[str], count: int) -> list[str]:
    """All texts, and then those again that are not empty: that one is odd, and would weigh on the mean cosine."""
    return list(islice(chain(texts, cycle([text for text in texts if text])), count))


def _affordable(model: SentenceTransformer, opened: OpenedExport) -> int:
    """Tokens of the long texts in a batch of 32."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, (nn.Embedding, nn.EmbeddingBag))}
    weights = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in tables)
    most = min(opened.manifest.max_seq_length or _MOST_TOKENS, _MOST_TOKENS_OF_LARGE_BATCH)
    return min(most, max(_FEWEST_TOKENS, int(_MOST_WORK / (_LARGE_BATCH * max(1, weights)))))


def _of_tokens(opened: OpenedExport, count: int) -> str:
    """Words of a sentence, over and over, as many as fit into so many tokens, and single letters behind them."""
    words = list(islice(cycle(PROBE_TEXTS["sentence"].split()), count))
    least, most = 0, len(words)
    while least < most:  # the most words that fit
        middle = (least + most + 1) // 2
        fits = _count(opened, words[:middle]) <= count
        least, most = (middle, most) if fits else (least, middle - 1)
    words = words[:least]
    while len(words) < count and _count(opened, [*words, "a"]) <= count:
        words.append("a")
    return " ".join(words)


def _count(opened: OpenedExport, words: Sequence[str]) -> int:
    """Tokens, of which there is one more than the limit if there are many more."""
    encoding = opened.tokenizer.encode(" ".join(words))
    return len(encoding) + bool(encoding.overflowing)


def _over_limit(opened: OpenedExport) -> str:
    return " ".join(["word"] * (opened.manifest.max_seq_length or _MOST_TOKENS) * 2)


def _tried(opened: OpenedExport, batches: Sequence[ProbeBatch], kinds: Mapping[str, str]) -> Tried:
    longest: dict[int, int] = {}
    lengths: list[int] = []
    for batch in batches:
        counts = [len(encoding) for encoding in opened.tokenize([batch.prompt + text for text in batch.texts])]
        longest[len(counts)] = max(longest.get(len(counts), 0), *counts)
        lengths += counts
    tokens = {kind: len(encoding) for kind, encoding in zip(kinds, opened.tokenize(list(kinds.values())), strict=True)}
    prompts = tuple(dict.fromkeys(batch.prompt for batch in batches))
    return Tried(len(lengths), min(lengths, default=0), max(lengths, default=0), tokens, longest, prompts)


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
