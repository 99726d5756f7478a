"""Risk against depth on a set of texts: a criterion at every threshold, every static layer, and an oracle.

Curves are for looking at. They prove nothing: a threshold read off a curve has no certificate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from st_plugins.exit_criteria import Criterion, Saturation
from st_plugins.exits.calibration import THRESHOLDS
from st_plugins.exits.risks import Risk, losses_at_exits, risk_of
from st_plugins.exits.traces import distinct, trace

Point = tuple[float, float]


@dataclass(frozen=True)
class ExitCurves:
    """Points (mean layer, mean loss), by mean layer.

    Args:
        risk: Name of the loss.
        dynamic: The criterion, one point per threshold.
        static: One layer for all texts.
        oracle: Losses known beforehand: for each mean layer the least mean loss any choice of exits has.

    Example:
        >>> ExitCurves("cosine", ((2.0, 0.1),), ((1.0, 0.2), (2.0, 0.0)), ((1.0, 0.2), (2.0, 0.0))).static[0]
        (1.0, 0.2)
    """

    risk: str
    dynamic: tuple[Point, ...]
    static: tuple[Point, ...]
    oracle: tuple[Point, ...]


def exit_curves(
    model: SentenceTransformer,
    texts: Sequence[str],
    *,
    risk: str | Risk = "cosine",
    criterion: Criterion | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
    batch_size: int = 32,
) -> ExitCurves:
    """Measure a criterion against static layers and an oracle. The options are those of ``calibrate_exits``.

    Args:
        model: An elastic model trained at layers to leave at.
        texts: N texts, each counted once.
        risk: As for :func:`~st_plugins.exits.calibrate_exits`.
        criterion: The same.
        prompt_name: The same.
        prompt: The same.
        batch_size: Texts per batch.

    Returns:
        ExitCurves: To be drawn by :func:`st_plugins.exits.pictures.draw_curves`.

    Raises:
        ExitError, InputError, UnsupportedModelError, UntrainedSizeError: As ``calibrate_exits``.

    Example:
        >>> model = st_plugins.load("minilm-elastic")
        >>> from st_plugins.exits import Gate
        >>> gate = Gate((3,), ((0.0, 0.0, 0.0, -0.1, 1.0),))
        >>> curves = exit_curves(model, ["A text", "Another, longer text"], criterion=gate)
        >>> [layer for layer, _ in curves.static], curves.dynamic[-1][0]
        ([3.0, 6.0], 6.0)
    """
    criterion = Saturation() if criterion is None else criterion
    name, loss = risk_of(risk)
    traced = trace(model, distinct(texts), prompt_name=prompt_name, prompt=prompt, batch_size=batch_size)
    criterion.check_exits(traced.layers)
    losses = losses_at_exits(name, loss, traced.embeddings)
    layers = torch.tensor(traced.layers, dtype=torch.double)
    scores = traced.scores(criterion)
    dynamic = {_point(losses, layers, traced.exits(scores, threshold)) for threshold in THRESHOLDS}
    everywhere = range(len(layers))
    static = [_point(losses, layers, torch.full(losses.shape[1:], index)) for index in everywhere]
    return ExitCurves(name, tuple(sorted(dynamic)), tuple(static), oracle_points(losses, layers))


def oracle_points(losses: Tensor, layers: Tensor) -> tuple[Point, ...]:
    """The corners of the least mean loss for each mean layer, from all texts at their first exit downwards.

    For every text only the corners of its own lower convex hull can be among the best; from there the steps that save
    most loss per layer are taken first.

    Args:
        losses: (S, N) in double precision.
        layers: (S,) ascending.

    Returns:
        tuple: Points, ascending in layer and descending in loss.

    Example:
        >>> oracle_points(torch.tensor([[0.4, 0.2], [0.0, 0.1]]).double(), torch.tensor([1.0, 2.0]).double())
        ((1.0, 0.3...), (1.5, 0.1...), (2.0, 0.0...))
    """
    depths = layers.tolist()
    steps = [step for column in losses.T.tolist() for step in _hull_steps(depths, column)]
    steps.sort(key=lambda step: step[1] / step[0])  # steepest fall first
    count = losses.shape[1]
    first = (depths[0], float(losses[0].mean()))
    totals = np.cumsum(np.array([(0.0, 0.0), *steps]) / count, axis=0)
    return tuple((first[0] + float(x), first[1] + float(y)) for x, y in totals)


def _hull_steps(depths: list[float], losses: list[float]) -> list[Point]:
    """The falling steps (layers, loss) along the lower convex hull of one text."""
    hull: list[Point] = []
    for point in zip(depths, losses, strict=True):
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-2], point):
            hull.pop()
        hull.append(point)
    return [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(hull) if b[1] < a[1]]


def _slope(a: Point, b: Point) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])


def _point(losses: Tensor, layers: Tensor, exits: Tensor) -> Point:
    return float(layers[exits].mean()), float(losses.gather(0, exits[None]).mean())
