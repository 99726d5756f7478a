"""How fast: the sections of ``gpu.py`` that compare whole calls, texts in and numpy vectors out."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from gpu_setup import EXIT, Setup
from timing import median_seconds

BATCH_SIZES = (32, 512)
TOKEN_BUDGETS = (16_384, 65_536)

Encode = Callable[[list[str]], Any]


def throughput(setup: Setup) -> dict[str, Any]:
    """Texts per second of every variant, each at several batch sizes."""
    variants = _variants(setup, one_setting=setup.is_quick)
    table: dict[str, dict[str, float]] = {name: {} for name in variants}
    for workload, texts in setup.workloads.items():
        runs = {}
        for name, encode in variants.items():
            _try(setup, f"{name}, {workload}", runs, name, partial(_synchronized, setup, encode, texts))
        seconds = median_seconds(runs, rounds=setup.rounds)
        for name, value in seconds.items():
            table[name][workload] = len(texts) / value
    _print(table, list(setup.workloads))
    return table


def latency(setup: Setup) -> dict[str, Any]:
    """One short query at a time."""
    query = ["How do I sort a list of numbers?"]
    runs: dict[str, Callable[[], object]] = {}
    for name, encode in _variants(setup, one_setting=True).items():
        _try(setup, f"{name}, one query", runs, name, partial(_synchronized, setup, encode, query))
    seconds = median_seconds(runs, rounds=1 if setup.is_quick else 60)
    for name, value in seconds.items():
        print(f"{name:40s} {1e3 * value:8.2f} ms")
    return seconds


def _variants(setup: Setup, *, one_setting: bool = False) -> dict[str, Encode]:
    """Everything that encodes; what cannot be made is printed and left out."""
    found: dict[str, Encode] = {}
    sizes = BATCH_SIZES[:1] if one_setting else BATCH_SIZES
    budgets = TOKEN_BUDGETS[:1] if one_setting else TOKEN_BUDGETS
    for label, dtype in (("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)):
        model = setup.load(dtype)
        for size in sizes:
            found[f"sentence-transformers {label}, batches of {size}"] = partial(model.encode, batch_size=size)
    ours: dict[str, dict[str, Any]] = {"ours fp32": {}, "ours fp32, exits": {"exit": EXIT}}
    folders = dict.fromkeys(ours)
    options: dict[str, dict[str, Any]] = {name: {} for name in ours}
    for name, call in (("ours fp16", {}), ("ours fp16, exits", {"exit": EXIT})):
        ours[name], folders[name], options[name] = call, None, {"precision": "fp16"}
    try:
        ours["ONNX Runtime's optimizer, fp16"] = {}
        folders["ONNX Runtime's optimizer, fp16"] = setup.optimized
        options["ONNX Runtime's optimizer, fp16"] = {}
    except Exception as error:
        del ours["ONNX Runtime's optimizer, fp16"]
        _failed(setup, "optimizer", error)
    for name, call in ours.items():
        for budget in budgets:
            try:
                encoder = setup.encoder(folders[name], token_budget=budget, **options[name])
            except Exception as error:
                _failed(setup, name, error)
            else:
                found[f"{name}, {budget} tokens"] = partial(encoder.encode, **call)
    return found


def _synchronized(setup: Setup, encode: Encode, texts: list[str]) -> None:
    encode(texts)
    setup.synchronize()


def _try(setup: Setup, label: str, runs: dict[str, Callable[[], object]], name: str, run: Callable[[], object]) -> None:
    """Keep a run that works."""
    try:
        run()
    except Exception as error:
        _failed(setup, label, error)
    else:
        runs[name] = run


def _failed(setup: Setup, label: str, error: Exception) -> None:
    print(f"FAILED {label}: {type(error).__name__}: {error}")
    setup.failures.append(f"{label}: {error}")


def _print(table: dict[str, dict[str, float]], workloads: list[str]) -> None:
    """Texts per second, and in brackets times the best of sentence-transformers in float32."""
    best = {
        workload: max(
            (row[workload] for name, row in table.items() if "transformers fp32" in name and workload in row), default=0
        )
        for workload in workloads
    }
    print("| texts per second | " + " | ".join(workloads) + " |")
    print("|---" * (len(workloads) + 1) + "|")
    for name, row in table.items():
        cells = (
            f"{row[workload]:,.0f} ({row[workload] / best[workload]:.2f})"
            if row.get(workload) and best[workload]
            else ""
            for workload in workloads
        )
        print(f"| {name} | " + " | ".join(cells) + " |")
