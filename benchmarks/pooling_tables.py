"""Tables of ``pooling.py``, from the scores it keeps."""

import json
import statistics
from pathlib import Path
from typing import Any

_TITLES = {"frozen": "network frozen", "joint": "network trained along"}
_SCORES = {"stsb": "STSb dev, Spearman", "squad": "SQuAD, nDCG@10"}


def print_tables(folder: Path) -> None:
    """Mean and standard deviation over the seeds run so far, as Markdown."""
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for file in sorted(folder.glob("*, seed *.json")):
        name, pooling, _ = file.stem.split(", ")
        runs.setdefault(name, {}).setdefault(pooling, []).append(json.loads(file.read_text(encoding="utf-8")))
    for name, by_pooling in runs.items():
        steps = {run["steps"] for results in by_pooling.values() for run in results}
        print(f"\n{_TITLES[name]}, {', '.join(map(str, sorted(steps)))} steps; percent, mean ± standard deviation\n")
        print("| pooling | weights | " + " | ".join(_SCORES.values()) + " | seeds | time of a step, ms |")
        print("|---|---|" + "---|" * len(_SCORES) + "---|---|")
        for pooling, results in by_pooling.items():
            scores = " | ".join(_spread([run["scores"][score] for run in results]) for score in _SCORES)
            print(f"| {pooling} | {results[0]['weights']:,} | {scores} | {len(results)} | {_milliseconds(results)} |")


def _spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _milliseconds(results: list[dict[str, Any]]) -> str:
    seconds = [run["seconds per step"] for run in results if run["seconds per step"] is not None]
    return f"{1000 * statistics.median(seconds):.0f}" if seconds else "none trained"
