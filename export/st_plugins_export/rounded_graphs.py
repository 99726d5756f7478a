"""Graphs that end in a rounding: what comes before it may be written in another precision, the rounding itself stays.

In float16 centroids would no longer be those of the index, and more numbers near a decision would fall to the other
side, for operators that cost next to nothing.
"""

from dataclasses import dataclass
from typing import Any

from st_plugins_export.extras import require
from st_plugins_export.fragments import Fragment, cut, drop_unread, reads

# The value in a graph that is rounded: sentence embeddings (B, D).
UNROUNDED = "unrounded_embedding"


@dataclass(frozen=True)
class RoundedGraph:
    """A graph in two parts.

    Args:
        front: ``onnx.ModelProto`` up to ``UNROUNDED``, which is one of its outputs, as is all else that ``end`` reads.
        end: What comes behind.
        outputs: ``onnx.ValueInfoProto`` of the whole.
    """

    front: Any
    end: Fragment
    outputs: tuple[Any, ...]


def hide_unrounded(model: Any) -> None:
    """Make the third output of a traced graph a value inside of it. In place."""
    outputs = [output for output in model.graph.output if output.name != UNROUNDED]
    del model.graph.output[:]
    model.graph.output.extend(outputs)


def split_at_rounding(model: Any) -> RoundedGraph | None:
    """Take a graph apart in front of its rounding.

    Args:
        model: ``onnx.ModelProto``; left as it is.

    Returns:
        RoundedGraph: Or None if it does not round.
    """
    onnx = require("onnx", extra="onnx")
    made: set[str] = set()
    for node in model.graph.node:
        if (made | {UNROUNDED}) & reads(node):
            made.update(node.output)
    if not made:
        return None
    before = {name for node in model.graph.node for name in node.output} - made
    outputs = tuple(model.graph.output)
    end = cut(model, before, sorted(made))
    front = onnx.ModelProto()
    front.CopyFrom(model)
    nodes = [node for node in front.graph.node if not made & set(node.output)]
    kept = [output for output in outputs if output.name not in made]
    crossing = sorted(end.inputs - {output.name for output in kept} - {tensor.name for tensor in model.graph.input})
    del front.graph.node[:], front.graph.output[:]
    front.graph.node.extend(nodes)
    front.graph.output.extend(kept)
    front.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in crossing)
    drop_unread(front.graph)
    return RoundedGraph(front, end, outputs)


def join(front: Any, parts: RoundedGraph) -> Any:
    """A whole graph again.

    Args:
        front: That of ``parts``, perhaps in another precision; left as it is.
        parts: From :func:`split_at_rounding`.

    Returns:
        onnx.ModelProto: With the outputs it had.
    """
    onnx = require("onnx", extra="onnx")
    whole = onnx.ModelProto()
    whole.CopyFrom(front)
    whole.graph.node.extend(parts.end.nodes)
    held = {tensor.name for tensor in whole.graph.initializer}
    whole.graph.initializer.extend(weight for name, weight in parts.end.weights.items() if name not in held)
    del whole.graph.output[:]
    whole.graph.output.extend(parts.outputs)
    return whole
