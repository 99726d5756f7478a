"""One ONNX graph in which every text leaves at a layer of its own. Standard operators; computes nothing by itself.

    rows --> blocks up to k_1 --> who leaves? --> if any row stays: gather those rows --> blocks up to k_2 --> ...
                                       |                                                        |
                 states of all rows <--+------------------ scatter them back <------------------+

What comes after an exit lies inside an ``If`` at that exit, together with the weights of its blocks: ONNX Runtime
packs weights for speed only in the graph that holds them.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer

from st_plugins.errors import ExportError, StPluginsError
from st_plugins.exit_policies import ExitPolicy
from st_plugins_export.exit_pieces import trace_score, trace_stages, trace_tail
from st_plugins_export.external_data import GraphWriter
from st_plugins_export.extras import require
from st_plugins_export.fragments import Fragment, count_nodes, place
from st_plugins_export.graph import ASKED_FOR, OPSET, WrittenGraph, first_width, traced_features
from st_plugins_export.packed_stages import pack_stage, padded_because
from st_plugins_export.sessions import EXIT_OUTPUT, LAYER_INPUT, OUTPUTS
from st_plugins_export.support import includes_prompt

EXIT_OUTPUTS = (*OUTPUTS, EXIT_OUTPUT)
_WITHOUT_COLUMNS = {LAYER_INPUT, "means"}
_MASK = "attention_mask"


def write_exit_graph(
    model: SentenceTransformer,
    file: Path,
    layers: tuple[int, ...],
    policy: ExitPolicy | None,
    layout: str = "portable",
    writer: GraphWriter | None = None,
    opset: int = OPSET,
    *,
    packed: bool = True,
) -> WrittenGraph:
    """Write a plain model as one ONNX file with exits; batch and sequence are dynamic.

    Inputs and first outputs are those of :func:`~st_plugins_export.graph.write_graph`, but tokens have zeros in place
    of padding if it is packed; the third output is ``exit_layer`` (B,). The threshold of layer k is an initializer,
    ``threshold_of_layer_k``.

    Args:
        model: From :func:`~st_plugins_export.graph.plain_copy`, at full depth, with the alignment the elastic one has.
        file: Where to.
        layers: The exits, ascending; at the last one all leave.
        policy: Which texts leave where. None: at the first exit that is not below the number in one more input,
            ``layer`` (B,).
        layout: What the first output holds, see :func:`~st_plugins_export.export_onnx`.
        writer: Saves the graphs of this export; None for one of its own.
        opset: One of ``graph.OPSETS``.
        packed: Compute real tokens only, stage by stage, but for stages that read padding.

    Returns:
        WrittenGraph: What is in it.

    Raises:
        UnsupportedModelError: If the architecture cannot be cut at its layers.
        ExportError: If torch cannot trace the model or onnx rejects the result.
    """
    try:
        exits = ExitGraph(model, layers, policy, layout, opset, packed=packed)
        graph = exits.build()
        (writer or GraphWriter(file.parent)).save(graph, file)
    except (StPluginsError, OSError):  # a full disk is no fault of the model
        raise
    except Exception as error:  # torch and onnx raise whatever comes up
        raise ExportError(
            f"{type(model[0].auto_model).__name__} with exits at layers {list(layers)} could not be written as ONNX: "
            f"{error}"
        ) from error
    return WrittenGraph(
        count_nodes(graph.graph), tuple(tensor.name for tensor in graph.graph.input), exits.padded_because
    )


@dataclass(frozen=True)
class _Level:
    """The inside of a graph, and the names of what it gives: states (B, T, D) and layers of exit (B,)."""

    nodes: list[Any]
    weights: list[Any]
    states: str
    exit_layer: str


class ExitGraph:
    """Puts the pieces of one model together, see :func:`write_exit_graph`."""

    def __init__(
        self,
        model: SentenceTransformer,
        layers: tuple[int, ...],
        policy: ExitPolicy | None,
        layout: str,
        opset: int = OPSET,
        *,
        packed: bool = True,
    ) -> None:
        self._helper: Any = require("onnx", extra="onnx").helper
        self._types: Any = require("onnx", extra="onnx").TensorProto
        self._model = model
        self._layers = layers
        self._policy = policy
        self._layout = layout
        self._opset = opset
        self._width = model[0].get_embedding_dimension()
        stages = trace_stages(model, layers, opset)
        if packed:
            pieces = [pack_stage(stage, self._width, opset) for stage in stages]
            self.padded_because = padded_because(pieces, layers)
            stages = tuple(piece.fragment for piece in pieces)
        else:
            self.padded_because = ASKED_FOR
        self._stages = stages
        self._scores: list[Fragment] = []
        if policy is not None:
            counts = range(1, len(layers))
            self._scores = [trace_score(policy.criterion, self._width, count, opset) for count in counts]
        uses = Counter(name for stage in self._stages for name in stage.weights)
        self._shared = {name: name for name, count in uses.items() if count > 1}

    def build(self) -> Any:
        """The whole graph, an ``onnx.ModelProto``."""
        make = self._helper.make_tensor_value_info
        inputs = list(traced_features(self._model))
        values = {name: name for name in inputs}
        tensors = [make(name, self._types.INT64, ["batch", "sequence"]) for name in inputs]
        if self._policy is None:
            values[LAYER_INPUT] = LAYER_INPUT
            tensors.append(make(LAYER_INPUT, self._types.INT64, ["batch"]))
        unmarked = [] if includes_prompt(self._model) else [self._node("Sign", [_MASK], "unmarked_mask")]
        level = self._from_exit(0, {**values, _MASK: unmarked[0].output[0]} if unmarked else values)
        read = {"token_embeddings": level.states, "exit_layer": level.exit_layer}
        names = {**values, **read, **{name: name for name in OUTPUTS}}
        tail = place(trace_tail(self._model, self._layout, self._opset), "tail/", names)
        last = self._helper.make_node("Identity", [level.exit_layer], [EXIT_OUTPUTS[2]])
        outputs = [
            make(EXIT_OUTPUTS[0], self._types.FLOAT, ["batch", "sequence", first_width(self._model, self._layout)]),
            make(EXIT_OUTPUTS[1], self._types.FLOAT, ["batch", self._model.get_embedding_dimension()]),
            make(EXIT_OUTPUTS[2], self._types.INT64, ["batch"]),
        ]
        weights = [*level.weights, *tail.weights.values(), *self._outer_weights()]
        graph = self._helper.make_graph(
            [*unmarked, *level.nodes, *tail.nodes, last], "exits", tensors, outputs, weights
        )
        opset = self._helper.make_opsetid("", self._opset)
        version = self._helper.find_min_ir_version_for([opset])
        return self._helper.make_model(graph, producer_name="st-plugins", ir_version=version, opset_imports=[opset])

    def _outer_weights(self) -> list[Any]:
        """Weights that several stages use, and the thresholds, where people find them."""
        held = {name: weight for stage in self._stages for name, weight in stage.weights.items()}
        weights = [held[name] for name in self._shared]
        for layer, score in zip(self._layers, self._scores, strict=False):  # the last layer has none
            if self._policy is not None and "score" in score.outputs:
                weights.append(
                    self._helper.make_tensor(_threshold(layer), self._types.FLOAT, [], [self._policy.threshold])
                )
        return weights

    def _from_exit(self, index: int, values: dict[str, str]) -> _Level:
        """From the blocks before an exit to the end, for rows whose tensors are called ``values``."""
        prefix = f"layer_{self._layers[index]}/"
        stage = place(self._stages[index], prefix, {**values, **self._shared})
        level = _Level([*stage.nodes], [*stage.weights.values()], prefix + "states", prefix + "exit_layer")
        raw = "raw" if "raw" in self._stages[index].outputs else "states"
        values = {**values, "hidden": prefix + raw}
        if index < len(self._scores):
            score = place(self._scores[index], prefix + "score/", {**values, "states": level.states})
            level.nodes.extend(score.nodes)
            level.weights.extend(score.weights.values())
            values["means"] = prefix + "score/pooled"
        if not self._may_leave(index) and index < len(self._layers) - 1:
            rest = self._from_exit(index + 1, values)
            return _Level([*level.nodes, *rest.nodes], [*level.weights, *rest.weights], rest.states, rest.exit_layer)
        layer = self._helper.make_tensor("", self._types.INT64, [1], [self._layers[index]])
        level.nodes.append(self._node("Shape", [level.states], prefix + "count", start=0, end=1))
        level.nodes.append(self._node("ConstantOfShape", [prefix + "count"], level.exit_layer, value=layer))
        if index == len(self._layers) - 1:
            return level
        return self._go_on(index, values, level)

    def _go_on(self, index: int, values: dict[str, str], level: _Level) -> _Level:
        """``level``, and all that becomes of the rows that do not leave at it."""
        prefix = f"layer_{self._layers[index]}/"
        leaves, rows, goes_on = prefix + "leaves", prefix + "rows", prefix + "goes_on"  # (B,), (B', 1), ()
        if self._policy is None:
            level.nodes.append(self._constant(prefix + "number", [self._layers[index]]))
            level.nodes.append(self._node("LessOrEqual", [values[LAYER_INPUT], prefix + "number"], leaves))
        else:
            score = [prefix + "score/score", _threshold(self._layers[index])]
            level.nodes.append(self._node("GreaterOrEqual", score, leaves))
        level.nodes.extend(
            [
                self._node("Not", [leaves], prefix + "stays"),
                self._node("NonZero", [prefix + "stays"], prefix + "positions"),  # (1, B')
                self._node("Transpose", [prefix + "positions"], rows),
                self._node("Size", [rows], prefix + "size"),
                self._node("Cast", [prefix + "size"], goes_on, to=self._types.BOOL),
            ]
        )
        nobody = _Level([], [], prefix + "all_states", prefix + "all_exit_layer")
        nobody.nodes.append(self._node("Identity", [level.states], nobody.states))
        nobody.nodes.append(self._node("Identity", [level.exit_layer], nobody.exit_layer))
        merged = _Level(level.nodes, level.weights, prefix + "merged_states", prefix + "merged_exit_layer")
        branches = {
            "then_branch": self._branch(self._rest(index, values, level, rows), prefix + "then"),
            "else_branch": self._branch(nobody, prefix + "else"),
        }
        outputs = [merged.states, merged.exit_layer]
        merged.nodes.append(self._helper.make_node("If", [goes_on], outputs, name=prefix + "if", **branches))
        return merged

    def _rest(self, index: int, values: dict[str, str], level: _Level, rows: str) -> _Level:
        """What some rows become, put among those that left. Columns behind their last token are dropped on the way."""
        prefix = f"layer_{self._layers[index]}/rest/"
        start, columns, axis = prefix + "start", prefix + "columns", prefix + "axis"  # (1,) each
        read = [name for name in values if name in self._read_after(index)]
        nodes = [self._constant(start, [0]), self._constant(axis, [1])]
        nodes += [self._node("GatherND", [values[name], rows], prefix + "all_columns/" + name) for name in read]
        nodes += [
            self._node("ReduceSum", [prefix + "all_columns/attention_mask", start], prefix + "counts", keepdims=0),
            self._node("Sign", [prefix + "counts"], prefix + "used"),
            self._node("ArgMax", [prefix + "used"], prefix + "last", axis=0, keepdims=1, select_last_index=1),
            self._node("Add", [prefix + "last", axis], columns),
        ]
        names = {name: prefix + "all_columns/" + name for name in read}
        for name in read:
            if name not in _WITHOUT_COLUMNS:
                nodes.append(self._node("Slice", [names[name], start, columns, axis], prefix + name))
                names[name] = prefix + name
        rest = self._from_exit(index + 1, names)
        padded, states, exit_layer = prefix + "padded", prefix + "merged_states", prefix + "merged_exit_layer"
        nodes += [
            *rest.nodes,
            self._node("Shape", [level.states], prefix + "width", start=1, end=2),
            self._node("Sub", [prefix + "width", columns], prefix + "gap"),
            self._constant(prefix + "before", [0, 0, 0, 0]),
            self._node("Concat", [prefix + "before", prefix + "gap", start], prefix + "pads", axis=0),
            self._node("Pad", [rest.states, prefix + "pads"], padded),
            self._node("ScatterND", [level.states, rows, padded], states),
            self._node("ScatterND", [level.exit_layer, rows, rest.exit_layer], exit_layer),
        ]
        return _Level(nodes, rest.weights, states, exit_layer)

    def _branch(self, level: _Level, name: str) -> Any:
        make = self._helper.make_tensor_value_info
        outputs = [
            make(level.states, self._types.FLOAT, [None, None, self._width]),
            make(level.exit_layer, self._types.INT64, [None]),
        ]
        return self._helper.make_graph(level.nodes, name, [], outputs, level.weights)

    def _may_leave(self, index: int) -> bool:
        return self._policy is None or (index < len(self._scores) and "score" in self._scores[index].outputs)

    def _read_after(self, index: int) -> set[str]:
        """What stages and scores behind an exit read."""
        pieces = [*self._stages[index + 1 :], *self._scores[index + 1 :]]
        return {LAYER_INPUT, "attention_mask", *(name for piece in pieces for name in piece.inputs)}

    def _constant(self, name: str, numbers: list[int]) -> Any:
        value = self._helper.make_tensor("", self._types.INT64, [len(numbers)], numbers)
        return self._node("Constant", [], name, value=value)

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return self._helper.make_node(kind, inputs, [output], name=output, **attributes)


def _threshold(layer: int) -> str:
    return f"threshold_of_layer_{layer}"
