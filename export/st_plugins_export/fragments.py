"""Fragments: parts cut out of one ONNX graph, to be put into another under names of their own. Knows no model."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fragment:
    """Operators in the order they run, and the weights among their inputs.

    Args:
        nodes: ``onnx.NodeProto``.
        weights: ``onnx.TensorProto`` by name.
    """

    nodes: tuple[Any, ...]
    weights: dict[str, Any]

    @property
    def outputs(self) -> set[str]:
        """All it computes."""
        return {name for node in self.nodes for name in node.output}

    @property
    def inputs(self) -> set[str]:
        """What it reads and neither computes nor holds."""
        return {name for node in self.nodes for name in reads(node)} - self.outputs - set(self.weights)


def cut(model: Any, sources: Collection[str], targets: Sequence[str]) -> Fragment:
    """The part of a graph that computes some values from others.

    Args:
        model: ``onnx.ModelProto``; left as it is.
        sources: Values that will be there already. What they were computed from is not followed.
        targets: Values to compute.

    Returns:
        Fragment: Copies.

    Example:
        >>> from onnx import helper, parser
        >>> model = parser.parse_model('<ir_version: 8, opset_import: ["": 17]>'
        ...     "g (float[N] a) => (float[N] d) { b = Neg(a) c = Abs(b) d = Add(b, c) }")
        >>> [node.op_type for node in cut(model, ["b"], ["d"]).nodes]
        ['Abs', 'Add']
    """
    makers = {name: position for position, node in enumerate(model.graph.node) for name in node.output}
    seen, wanted = set(sources), list(targets)
    positions: set[int] = set()
    while wanted:
        name = wanted.pop()
        if name not in seen and name in makers:
            positions.add(makers[name])
            wanted.extend(reads(model.graph.node[makers[name]]))
        seen.add(name)
    nodes = tuple(_copied(model.graph.node[position]) for position in sorted(positions))
    read = {name for node in nodes for name in reads(node)}
    return Fragment(nodes, {weight.name: weight for weight in model.graph.initializer if weight.name in read})


def place(fragment: Fragment, prefix: str, names: Mapping[str, str]) -> Fragment:
    """A fragment under other names.

    Args:
        fragment: Left as it is.
        prefix: Goes in front of every name that is not among ``names``.
        names: What values and weights that lie outside are called there. A weight named here is left out.

    Returns:
        Fragment: Copies.
    """

    def renamed(name: str) -> str:
        return names.get(name, prefix + name) if name else ""  # "" stands for an optional input that is not given

    nodes = [_copied(node) for node in fragment.nodes]
    for node in nodes:
        _rename(node, renamed, prefix)
    weights = {}
    for name, weight in fragment.weights.items():
        if name not in names:
            weight = _copied(weight)
            weight.name = prefix + name
            weights[weight.name] = weight
    return Fragment(tuple(nodes), weights)


def branches(node: Any) -> list[Any]:
    """The graphs inside an operator."""
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def count_nodes(graph: Any) -> int:
    """Operators in a graph, those inside of others included."""
    return len(graph.node) + sum(count_nodes(branch) for node in graph.node for branch in branches(node))


def drop_unread(graph: Any) -> None:
    """Take out weights and constants that nothing reads, in a graph and in those inside of it.

    Args:
        graph: ``onnx.GraphProto``; changed in place.
    """
    read = {name for node in graph.node for name in reads(node)} | {tensor.name for tensor in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    nodes = [node for node in graph.node if node.op_type != "Constant" or node.output[0] in read]
    for field, values in ((graph.initializer, kept), (graph.node, nodes)):
        if len(field) != len(values):
            del field[:]
            field.extend(values)
    for node in graph.node:
        for branch in branches(node):
            drop_unread(branch)


def _copied(message: Any) -> Any:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def reads(node: Any) -> set[str]:
    """What an operator reads, the graphs inside it included."""
    names = {name for name in node.input if name}
    for branch in branches(node):
        made = {weight.name for weight in branch.initializer}
        made.update(name for inner in branch.node for name in inner.output)
        names |= {name for inner in branch.node for name in reads(inner)} - made
    return names


def _rename(node: Any, renamed: Callable[[str], str], prefix: str) -> None:
    node.name = prefix + (node.name or node.output[0])
    node.input[:] = [renamed(name) for name in node.input]
    node.output[:] = [renamed(name) for name in node.output]
    for branch in branches(node):
        for tensor in (*branch.initializer, *branch.output, *branch.value_info):
            tensor.name = renamed(tensor.name)
        for inner in branch.node:
            _rename(inner, renamed, prefix)
