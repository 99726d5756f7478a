"""Quality tables of ``dynamic_exit.py``. All texts were run once; every exit is looked up."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from st_plugins.exits import Gate, Saturation
from st_plugins.exits.traces import Trace

CLOSE = 0.99  # of the score in full


@dataclass(frozen=True)
class Task:
    """Texts at every exit, and the score of the embeddings (N, D) they leave with."""

    name: str
    traced: Trace
    score: Callable[[Tensor], float]


def scores_at_exits(traced: Trace, gate: Gate) -> dict[str, Tensor]:
    """(S - 1, N) by name: what lets a text leave. The oracle knows the full embedding."""
    return {
        "saturation": traced.scores(Saturation()),
        "gate": traced.scores(gate),
        "oracle": cosine_similarity(traced.embeddings[:-1], traced.embeddings[-1:], dim=-1),
    }


def mean_layer(traced: Trace, exits: Tensor) -> float:
    return float(torch.tensor(traced.layers, dtype=torch.double)[exits].mean())


def threshold_at(traced: Trace, scores: Tensor, layer: float) -> float:
    """The threshold with which the texts leave at this layer in the mean, as nearly as possible."""
    steps = torch.from_numpy(np.quantile(scores[scores.isfinite()].numpy(), np.linspace(0, 1, 501)))
    steps = steps.clamp(-1, 1).tolist()
    return min(steps, key=lambda step: abs(mean_layer(traced, traced.exits(scores, step)) - layer))


def as_they_leave(traced: Trace, exits: Tensor) -> Tensor:
    """Embeddings (N, D)."""
    return traced.embeddings[exits, torch.arange(len(exits))]


def quality_table(task: Task, gate: Gate) -> str:
    """Score at each depth: one layer for all, or the same mean by each way of choosing."""
    ways = scores_at_exits(task.traced, gate)
    rows = [f"\n{task.name}\n", "| mean layers | static | " + " | ".join(ways) + " |", "|---" * (2 + len(ways)) + "|"]
    for index, layer in enumerate(task.traced.layers):
        cells = [f"{task.score(task.traced.embeddings[index]):.1f}"]
        for scores in ways.values() if 0 < index < len(task.traced.layers) - 1 else []:
            exits = task.traced.exits(scores, threshold_at(task.traced, scores, layer))
            mean = mean_layer(task.traced, exits)
            cells.append(f"{task.score(as_they_leave(task.traced, exits)):.1f} ({mean:.2f})")
        rows.append(f"| {layer} | " + " | ".join(cells + [""] * (1 + len(ways) - len(cells))) + " |")
    return "\n".join(rows)


def least_layers_row(task: Task, gate: Gate) -> str:
    """The fewest mean layers from which on the score is within 1 % of the full depth's."""
    traced = task.traced
    enough = CLOSE * task.score(traced.embeddings[-1])
    good = [task.score(embeddings) >= enough for embeddings in traced.embeddings]
    cells = [str(next(layer for layer, is_good in zip(traced.layers, good, strict=True) if is_good))]
    for scores in scores_at_exits(traced, gate).values():
        least = float(traced.layers[-1])
        for layer in np.arange(traced.layers[-1], traced.layers[0], -0.1):
            exits = traced.exits(scores, threshold_at(traced, scores, layer))
            if task.score(as_they_leave(traced, exits)) < enough:
                break
            least = mean_layer(traced, exits)
        cells.append(f"{least:.2f}")
    return "| within 1 % with | " + " | ".join(cells) + " |"
