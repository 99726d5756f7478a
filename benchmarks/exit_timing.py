"""Time tables of ``dynamic_exit.py``: all of them ratios, sides interleaved, medians."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import batch_to_device

from exit_quality import mean_layer, scores_at_exits, threshold_at
from st_plugins.exit_policies import NEVER
from st_plugins.exits import ExitPolicy, Gate, Saturation
from st_plugins.exits.traces import trace
from timing import median_seconds

BATCHES = {1: 32, 8: 8, 32: 4, 128: 1}  # texts in a batch, and how many batches are timed
ROUNDS = 5
TEXTS = 128

Run = Callable[[], object]


def encode_table(title: str, model: SentenceTransformer, gate: Gate, texts: list[str]) -> str:
    """Time of ``encode`` at batch 32 against mean layers: one layer for all, and both criteria."""
    texts = texts[:TEXTS]
    traced = trace(model, texts)
    ways = {name: scores for name, scores in scores_at_exits(traced, gate).items() if name != "oracle"}
    runs: dict[str, Run] = {"full": lambda: model.encode(texts)}
    means: dict[str, float] = {}
    for layer in range(2, model[0].depth):
        runs[f"static {layer}"] = partial(model.encode, texts, layer=layer)
        for name, scores in ways.items():
            threshold = threshold_at(traced, scores, layer)
            criterion = gate if name == "gate" else Saturation()
            model[0].add_exit_policy(ExitPolicy(f"{name} {layer}", criterion, threshold, traced.layers))
            runs[f"{name} {layer}"] = partial(model.encode, texts, exit=f"{name} {layer}")
            means[f"{name} {layer}"] = mean_layer(traced, traced.exits(scores, threshold))
    seconds = median_seconds({name: awaited(run) for name, run in runs.items()}, rounds=ROUNDS)
    rows = [
        f"\n`encode` of {len(texts)} texts, {title}, batch 32: time in times of the full depth's (mean layers)\n",
        "| layers | ideal | static | " + " | ".join(ways) + " |",
        "|---" * (3 + len(ways)) + "|",
    ]
    for layer in range(2, model[0].depth):
        cells = [f"{layer / model[0].depth:.2f}", f"{seconds[f'static {layer}'] / seconds['full']:.2f}"]
        for name in ways:
            cells.append(f"{seconds[f'{name} {layer}'] / seconds['full']:.2f} ({means[f'{name} {layer}']:.2f})")
        rows.append(f"| {layer} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def forward_table(title: str, model: SentenceTransformer, texts: list[str]) -> str:
    """What a forward pass costs beyond the blocks that texts need, without tokenizing and bookkeeping."""
    rows = [
        f"\nForward passes, {title}: time in times of the full depth's, and how far above mean layers / depth\n",
        "| batch | torch | mean layers | time | beyond the ideal | never leaving |",
        "|---|---|---|---|---|---|",
    ]
    compiled, reason = compiled_blocks(model, texts)
    for batch in BATCHES:
        for name, candidate in (("eager", model), ("compiled blocks", compiled)):
            if candidate is not None:
                rows.append(f"| {batch} | {name} | " + " | ".join(_overhead(candidate, texts, batch)) + " |")
    if compiled is None:
        rows.append(f"\ntorch.compile of the blocks does not work here: {reason}")
    return "\n".join(rows)


def _overhead(model: SentenceTransformer, texts: list[str], batch: int) -> tuple[str, ...]:
    batches = prepared(model, texts, batch)
    traced = trace(model, [text for some, _ in batches for text in some])
    scores = traced.scores(Saturation())
    threshold = threshold_at(traced, scores, model[0].depth / 2)
    share = mean_layer(traced, traced.exits(scores, threshold)) / model[0].depth
    seconds = median_seconds(
        {
            "full": awaited(lambda: forward(model, batches)),
            "early": awaited(lambda: forward(model, batches, exit=threshold)),
            "never": awaited(lambda: forward(model, batches, exit=NEVER)),
        },
        rounds=ROUNDS,
    )
    early = seconds["early"] / seconds["full"]
    return (
        f"{share * model[0].depth:.2f}",
        f"{early:.2f}",
        f"{100 * (early / share - 1):+.0f} %",
        f"{100 * (seconds['never'] / seconds['full'] - 1):+.0f} %",
    )


def prepared(model: SentenceTransformer, texts: list[str], batch: int) -> list[tuple[list[str], dict[str, Any]]]:
    """Batches of texts of similar length, with their features."""
    chosen = sorted(texts[: batch * BATCHES[batch]], key=len)
    batches = []
    for start in range(0, len(chosen), batch):
        some = chosen[start : start + batch]
        batches.append((some, batch_to_device(model.preprocess(some), model.device)))
    return batches


@torch.inference_mode()
def forward(model: SentenceTransformer, batches: list[tuple[list[str], dict[str, Any]]], **options: Any) -> None:
    for _, features in batches:
        model(dict(features), **options)


def compiled_blocks(model: SentenceTransformer, texts: list[str]) -> tuple[SentenceTransformer | None, str]:
    """A copy whose blocks are compiled, for any number of rows and columns; or why that does not work."""
    compiled = copy.deepcopy(model)
    for block in compiled[0].model.encoder.layer:
        block.compile(dynamic=True)
    try:
        forward(compiled, prepared(compiled, texts, 8), exit=0.5)
    except Exception as error:  # whatever the compiler raises is what is reported
        return None, f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return compiled, ""


def awaited(run: Run) -> Run:
    """The same, until a GPU has done it."""

    def timed() -> None:
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return timed
