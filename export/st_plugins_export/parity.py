"""Compares an export with the model it came from: the same tokens, and the same vectors in the same batches."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Router

from st_plugins.errors import ParityError
from st_plugins_export.entries import ExportedSize
from st_plugins_export.exit_parity import check_exit
from st_plugins_export.first_output import check_repeated, check_tokens
from st_plugins_export.graph import in_float32, plain_copy
from st_plugins_export.opened import OpenedExport
from st_plugins_export.probes import token_batches
from st_plugins_export.report import ExportReport, SizeReport
from st_plugins_export.routed import check_routes


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
        ExportReport: The largest difference of each graph.

    Raises:
        ParityError: If a difference is larger, or tokens differ.
        ManifestError: If the folder is incomplete or was changed.

    Example:
        >>> model = st_plugins.load("minilm-elastic")
        >>> check_parity(model, "minilm-onnx").max_difference < 1e-6
        True
    """
    if isinstance(model[0], Router):
        return check_routes(model, Path(folder), partial(check_parity, texts=texts, tolerance=tolerance))
    opened = OpenedExport(Path(folder))
    model = in_float32(model)
    sizes = [check_size(model, opened, size, texts, tolerance=tolerance) for size in opened.manifest.sizes]
    exits = [check_exit(model, opened, exported, texts, tolerance=tolerance) for exported in opened.manifest.exits]
    return ExportReport(Path(folder), tolerance, tuple(sizes), tuple(exits))


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
    worst = 0.0
    for batch, prompt, encodings in token_batches(plain, opened, texts):
        found = opened.embed(encodings, size)  # (B, dim)
        expected = plain.encode(batch, prompt=prompt, batch_size=len(batch), show_progress_bar=False)  # (B, dim)
        difference = float(np.abs(expected - found).max())
        if not difference <= tolerance:  # NaN fails as well
            raise ParityError(
                f"{size.file} must give the vectors of torch to within {tolerance:.0e}, and is {difference:.1e} off "
                f"in a batch of {len(batch)} that starts with {(prompt + batch[0])[:60]!r}. Report this architecture, "
                "or raise the tolerance if you can live with the difference."
            )
        worst = max(worst, difference)
    if opened.manifest.layout == "tokens":
        check_tokens(plain, opened, size, tolerance=tolerance)
    else:
        check_repeated(opened, size)
    file = opened.folder / size.file
    seconds = time.perf_counter() - started
    return SizeReport(size.layer, size.dim, size.file, file.stat().st_size, size.nodes, worst, seconds)
