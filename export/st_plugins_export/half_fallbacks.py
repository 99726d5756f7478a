"""Float16 where it is good enough: operators that float16 spoils go back to float32 until the vectors are close."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from st_plugins_export.closeness import cosines, run_graph
from st_plugins_export.fragments import branches
from st_plugins_export.half_precision import to_half
from st_plugins_export.observing import column_maxima, float_values
from st_plugins_export.precisions import Precision

# Half of what float16 can hold: texts that nobody has tried may be a little larger.
_TOO_LARGE = 32752.0


def half_with_fallbacks(
    model: Any, precision: Precision, batches: Sequence[Mapping[str, np.ndarray]]
) -> tuple[Any, tuple[str, ...]]:
    """The graph in float16, but for operators that would spoil its sentence embeddings.

    Operators that read or compute numbers above 32752 stay float32. If the vectors are not close then, the operators
    with the largest numbers follow: one, two, four more, and so on, in the end all.

    Args:
        model: ``onnx.ModelProto`` in float32; left as it is.
        precision: Its bars.
        batches: Inputs to try it on.

    Returns:
        tuple: ``onnx.ModelProto``, and the first outputs of the operators that stayed float32 for their numbers.
    """
    half = to_half(model)
    sizes = _sizes(model, half, batches)
    kept = {name for name, size in sizes.items() if size > _TOO_LARGE}
    order = sorted(sizes.keys() - kept, key=lambda name: (-sizes[name], name))
    expected = run_graph(model, batches)
    if kept:
        half = to_half(model, kept=kept)
    step = 1
    while order and not _is_close(expected, run_graph(half, batches), precision):
        kept.update(order[:step])
        order, step = order[step:], 2 * step
        half = to_half(model, kept=kept)
    return half, tuple(sorted(kept))


def _is_close(
    expected: tuple[np.ndarray, np.ndarray | None], found: tuple[np.ndarray, np.ndarray | None], precision: Precision
) -> bool:
    """Whether texts that leave at the same layer get vectors within the bars."""
    rows = np.ones(len(expected[0]), dtype=bool)
    if expected[1] is not None and found[1] is not None:
        rows = expected[1] == found[1]
    if not np.isfinite(found[0]).all() or not rows.any():
        return False
    similar = cosines(expected[0][rows], found[0][rows])
    return bool(similar.mean() >= precision.min_cosine and similar.min() >= precision.min_cosine_of_one)


def _sizes(model: Any, half: Any, batches: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float]:
    """The largest number that each operator of float16 read or computed in float32, by its first output."""
    in_half = {node.output[0].removesuffix("/half") for node in _nodes(half.graph) if node.output[0].endswith("/half")}
    floats = {name for name, rank in float_values(model).items() if rank != 0}
    around = {
        node.output[0]: [name for name in (*node.input, *node.output) if name in floats]
        for node in _nodes(model.graph)
        if node.output[0] in in_half
    }
    maxima = column_maxima(model, {name for names in around.values() for name in names}, batches)
    largest = {name: float(columns.max(initial=0.0)) for name, columns in maxima.items()}
    return {name: max((largest.get(value, 0.0) for value in values), default=0.0) for name, values in around.items()}


def _nodes(graph: Any) -> list[Any]:
    return [*graph.node, *(inner for node in graph.node for branch in branches(node) for inner in _nodes(branch))]
