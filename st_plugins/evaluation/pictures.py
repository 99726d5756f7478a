"""Draws what an :class:`~st_plugins.evaluation.ElasticGridEvaluator` measured."""

from collections.abc import Sequence
from pathlib import Path

from st_plugins.evaluation.grid import GridPoint
from st_plugins.figures import new_figure, save_figure


def draw_grid(points: Sequence[GridPoint], file: str | Path, *, title: str = "") -> None:
    """A heat map of the scores, layers by dims; with query layers, a map of query layer by layer at the widest dim.

    Args:
        points: From ``evaluator.points``.
        file: A PNG; an earlier one is replaced when the new one is complete.
        title: Above the picture.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> draw_grid([GridPoint(1, 1, 8, 0.5, 0.5), GridPoint(2, 2, 8, 0.9, 1.0)], "grid.png")
    """
    if _is_crossed(points):
        widest = max(point.dim for point in points)
        cells = {(p.query_layer, p.layer): 100 * p.score for p in points if p.dim == widest}
        names = ("query layer", "document layer")
    else:
        cells = {(p.layer, p.dim): 100 * p.score for p in points}
        names = ("layer", "dim")
    rows, columns = (sorted({key[axis] for key in cells}) for axis in (0, 1))
    values = [[cells.get((row, column), float("nan")) for column in columns] for row in rows]
    figure, axis = new_figure(2.5 + 0.9 * len(columns), 1.6 + 0.5 * len(rows))
    image = axis.imshow(values, origin="lower", cmap="viridis", aspect="auto")
    axis.set(title=title, xlabel=names[1], xticks=range(len(columns)), xticklabels=columns)
    axis.set(ylabel=names[0], yticks=range(len(rows)), yticklabels=rows)
    low, high = image.get_clim()
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            color = "black" if value > low + 0.6 * (high - low) else "white"
            axis.text(x, y, f"{value:.1f}", ha="center", va="center", color=color)
    figure.colorbar(image, ax=axis, label="score (%)")
    save_figure(figure, file)


def draw_frontier(points: Sequence[GridPoint], file: str | Path, *, title: str = "") -> None:
    """Quality against cost, one line per dim: what each further layer brings for the time it takes.

    With query layers, the queries' cost against documents of the deepest layer.

    Args:
        points: From ``evaluator.points``.
        file: A PNG; an earlier one is replaced when the new one is complete.
        title: Above the picture.

    Raises:
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> draw_frontier([GridPoint(1, 1, 8, 0.5, 0.5), GridPoint(2, 2, 8, 0.9, 1.0)], "frontier.png")
    """
    figure, axis = new_figure(7.0, 4.4)
    deepest = max(point.layer for point in points)
    line = [point for point in points if point.layer == deepest] if _is_crossed(points) else list(points)
    widest = max(point.dim for point in line)
    for dim in sorted({point.dim for point in line}):
        of_dim = sorted((point for point in line if point.dim == dim), key=_cost)
        axis.plot([p.cost for p in of_dim], [100 * p.score for p in of_dim], marker="o", label=f"dim {dim}")
    for point in (point for point in line if point.dim == widest):
        place = {"xytext": (-6, 6), "textcoords": "offset points", "ha": "right"}
        axis.annotate(f"layer {point.query_layer}", (point.cost, 100 * point.score), **place)
    axis.set(title=title, xlabel="time to encode, as a fraction of the deepest layer's", ylabel="score (%)")
    axis.margins(x=0.12, y=0.1)
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    save_figure(figure, file)


def _is_crossed(points: Sequence[GridPoint]) -> bool:
    return any(point.query_layer != point.layer for point in points)


def _cost(point: GridPoint) -> float:
    return point.cost
