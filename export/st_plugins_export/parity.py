"""Compares an export with the model it came from: the same tokens, and the same vectors in the same batches."""

import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

from st_plugins.errors import ParityError
from st_plugins_export.graph import plain_copy
from st_plugins_export.layout import ExportedSize
from st_plugins_export.opened import OpenedExport
from st_plugins_export.report import ExportReport, SizeReport

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


def check_parity(
    model: SentenceTransformer, folder: str | Path, texts: Sequence[str] | None = None, *, tolerance: float = 1e-5
) -> ExportReport:
    """Compare every graph of an export with torch.

    The probes are texts from one word to beyond the length limit, several scripts, and every prompt of the model; alone
    and in batches of 3 and 32. Tokens must be equal, vectors are compared coordinate by coordinate.

    Args:
        model: What was exported; left as it is, a copy runs on the CPU.
        folder: The export.
        texts: Compare these instead, in batches of 32 and without a prompt.
        tolerance: Largest absolute difference to accept.

    Returns:
        ExportReport: The largest difference of each size.

    Raises:
        ParityError: If a difference is larger, or tokens differ.
        ManifestError: If the folder is incomplete or was changed.

    Example:
        >>> model = st_plugins.load("minilm-elastic")
        >>> check_parity(model, "minilm-onnx").max_difference < 1e-6
        True
    """
    opened = OpenedExport(Path(folder))
    reports = [check_size(model, opened, size, texts, tolerance=tolerance) for size in opened.manifest.sizes]
    return ExportReport(Path(folder), tolerance, tuple(reports))


def check_size(
    model: SentenceTransformer,
    opened: OpenedExport,
    size: ExportedSize,
    texts: Sequence[str] | None = None,
    *,
    tolerance: float,
) -> SizeReport:
    """:func:`check_parity` for one graph.

    Args:
        model: What was exported.
        opened: The export.
        size: One of its sizes.
        texts: Compare these instead of the probes.
        tolerance: Largest absolute difference to accept.

    Returns:
        SizeReport: ``seconds`` is the time of the check.

    Raises:
        ParityError: If a difference is larger, or tokens differ.
    """
    started = time.perf_counter()
    plain = plain_copy(model) if size.is_full else plain_copy(model, layer=size.layer, dim=size.dim)
    if texts is None:
        _same_tokens(plain, opened, [_over_limit(opened)], "")
        batches = _probe_batches(plain, opened)
    else:
        batches = ((list(texts[start : start + _LARGE_BATCH]), "") for start in range(0, len(texts), _LARGE_BATCH))
    worst = 0.0
    for batch, prompt in batches:
        found = opened.embed(_same_tokens(plain, opened, batch, prompt), size)  # (B, dim)
        expected = plain.encode(batch, prompt=prompt, batch_size=len(batch), show_progress_bar=False)  # (B, dim)
        difference = float(np.abs(expected - found).max())
        if not difference <= tolerance:  # NaN fails as well
            raise ParityError(
                f"{size.file} must give the vectors of torch to within {tolerance:.0e}, and is {difference:.1e} off "
                f"in a batch of {len(batch)} that starts with {(prompt + batch[0])[:60]!r}. Report this architecture, "
                "or raise the tolerance if you can live with the difference."
            )
        worst = max(worst, difference)
    file = opened.folder / size.file
    seconds = time.perf_counter() - started
    return SizeReport(size.layer, size.dim, size.file, file.stat().st_size, size.nodes, worst, seconds)


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
