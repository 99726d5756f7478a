"""What an exit graph is put together from, traced from torch: layers, scores of a criterion, and the modules behind.

It says nothing about who leaves when; see ``exit_graph.py`` for that.
"""

import copy
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from st_plugins.blocks import find_blocks, follow
from st_plugins.errors import UnsupportedModelError
from st_plugins.exit_criteria import Criterion, Saturation, masked_mean
from st_plugins.model_settings import with_settings_of
from st_plugins.modules import LayerAlignment
from st_plugins.views import StandIn, normed_layers, recording_view, shallow_copy
from st_plugins_export.first_output import first_output
from st_plugins_export.fragments import Fragment, cut, place
from st_plugins_export.graph import OPSET, eager_attention, trace_graph, traced_features
from st_plugins_export.marked_pooling import behind_marks, read_marks
from st_plugins_export.sessions import OUTPUTS
from st_plugins_export.support import includes_prompt

_TOKENS = {0: "batch", 1: "sequence"}


class LayersPiece(nn.Module):
    """The transformer, with its layers for outputs.

    Args:
        model: A plain model.
        inputs: Names of the tensors ``forward`` gets.
        layers: Which layers, ascending.
    """

    def __init__(self, model: SentenceTransformer, inputs: tuple[str, ...], layers: tuple[int, ...]) -> None:
        super().__init__()
        self.network = model[0].auto_model
        recording, self.states = recording_view(self.network)
        blocks: Any = follow(recording, find_blocks(self.network).path)
        blocks[0] = self.first_block = _InputRecorder(blocks[0])
        self.transformer = shallow_copy(model[0], model=recording)
        self.inputs = inputs
        self.layers = layers

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Tensors (B, T) in; out, each (B, T, D): the input of block 1, raw layers, and those after the final norm."""
        self.states.clear()
        self.transformer(dict(zip(self.inputs, tensors, strict=True)))
        raw = [self.states[layer - 1] for layer in self.layers]
        has_norm = find_blocks(self.network).norm is not None
        # A trace takes x for the result of an x.to(dtype) that changes nothing: without copies, what the norm does to
        # its input would be taken for a part of the layer.
        normed = normed_layers(self.network, [state.clone() for state in raw]) if has_norm else ()
        return (self.first_block.given, *raw, *normed)


class ScorePiece(nn.Module):
    """The score of a criterion at an exit.

    Args:
        criterion: :class:`~st_plugins.exits.Saturation` or :class:`~st_plugins.exits.Gate`.
    """

    def __init__(self, criterion: Criterion) -> None:
        super().__init__()
        self.criterion = criterion

    def forward(self, states: Tensor, attention_mask: Tensor, *means: Tensor) -> tuple[Tensor, Tensor]:
        """Layer (B, T, D), mask (B, T) and means at earlier exits (B, J, D) in; means (B, J + 1, D), score (B,) out."""
        pooled = torch.cat([*means, masked_mean(states, attention_mask)[:, None]], dim=1)
        return pooled, self.criterion.score(pooled.transpose(0, 1), attention_mask.sum(dim=1))


class TailPiece(nn.Module):
    """The modules behind the transformer.

    Args:
        model: A plain model.
        inputs: Names of the tensors ``forward`` gets, ``token_embeddings`` among them.
        layout: What the first output holds.
    """

    def __init__(self, model: SentenceTransformer, inputs: tuple[str, ...], layout: str) -> None:
        super().__init__()
        self.behind = nn.ModuleList(behind_marks(list(model.children())[1:]))
        self.has_marks = not includes_prompt(model)  # see prompt_marks.py
        self.inputs = inputs
        self.layout = layout
        self.truncate_dim = model.truncate_dim

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """As ``PipelineGraph.forward``; tokens have zeros in place of padding."""
        features: dict[str, Any] = dict(zip(self.inputs, tensors, strict=True))
        is_token = features["attention_mask"].bool()[..., None]  # (B, T, 1)
        tokens = torch.where(is_token, features["token_embeddings"], 0.0)  # (B, T, D)
        features["token_embeddings"] = tokens
        features = read_marks(features) if self.has_marks else features
        for module in self.behind:
            features = module(features)
        sentence_embedding = features["sentence_embedding"][:, : self.truncate_dim]
        return first_output(self.layout, tokens, sentence_embedding), sentence_embedding


class _InputRecorder(StandIn):
    """Calls its block and keeps the hidden states it was given."""

    given: Tensor

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:  # what the family gives its blocks
        self.given = hidden_states
        return self.block(hidden_states, *args, **kwargs)


def with_alignment_of(elastic: SentenceTransformer, plain: SentenceTransformer) -> SentenceTransformer:
    """The plain full size with the maps that texts need which leave before it.

    Args:
        elastic: The model that is exported.
        plain: From :func:`plain_copy`, at full depth, where no text needs a map.

    Returns:
        SentenceTransformer: ``plain`` itself if there are no maps.
    """
    modules = list(plain.children())
    for index, module in enumerate(elastic.children()):
        if isinstance(module, LayerAlignment):
            modules.insert(index, copy.deepcopy(module).cpu())
            return with_settings_of(plain, {str(number): part for number, part in enumerate(modules)})
    return plain


def trace_stages(model: SentenceTransformer, layers: tuple[int, ...], opset: int = OPSET) -> tuple[Fragment, ...]:
    """The transformer, cut at layers: stage j computes layer k_j from layer k_(j-1) and the inputs of the model.

    Args:
        model: A plain model.
        layers: k_1 ... k_S, ascending.
        opset: Of the graph they are for.

    Returns:
        tuple: S fragments. They read inputs and, from the second on, ``hidden``. They compute ``states``, and where the
        family has a final norm, which ``states`` have behind them, also ``raw``, which goes on to the next stage.

    Raises:
        UnsupportedModelError: If blocks read more than masks and what the block before them computed.
    """
    features = traced_features(model)
    network = model[0].auto_model
    raw = tuple(f"raw_{layer}" for layer in layers)
    normed = tuple(f"states_{layer}" for layer in layers) if find_blocks(network).norm else ()
    with eager_attention(network):
        piece = LayersPiece(model, tuple(features), layers)
        axes = dict.fromkeys(features, _TOKENS)
        graph = trace_graph(piece, features, axes, ("embedded", *raw, *normed), opset)
    stages = []
    for index, name in enumerate(raw):
        names = {name: "raw", normed[index]: "states"} if normed else {name: "states"}
        before = ["embedded", raw[index - 1]] if index else []
        stage = cut(graph, before, list(names))
        if index and any("embedded" in node.input and node.op_type != "Shape" for node in stage.nodes):
            raise UnsupportedModelError(
                f"{type(network).__name__} cannot leave early in a graph: besides hidden states its blocks read what "
                "was computed from the tokens before them. Export fixed layers: export_onnx(model, folder, "
                "sizes=[(layer, dim)])."
            )
        # The shape of the embeddings is that of the hidden states, and nothing else is read of them.
        stages.append(place(stage, "", {**dict.fromkeys(before, "hidden"), **names}))
    return tuple(stages)


def trace_score(criterion: Criterion, width: int, exits: int, opset: int = OPSET) -> Fragment:
    """A criterion at its n-th exit.

    Args:
        criterion: See :class:`ScorePiece`.
        width: D.
        exits: n, counted from 1.
        opset: Of the graph it is for.

    Returns:
        Fragment: Reads ``states``, ``attention_mask`` and, from the second exit on, ``means``; computes ``pooled``, and
        ``score`` unless it would be minus infinity for every text.
    """
    tensors = {"states": torch.rand(2, 3, width), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    if exits > 1:
        tensors["means"] = torch.rand(2, exits - 1, width)
    axes = {name: {0: "batch"} if name == "means" else _TOKENS for name in tensors}
    graph = trace_graph(ScorePiece(criterion), tensors, axes, ("pooled", "score"), opset)
    is_too_early = isinstance(criterion, Saturation) and exits <= criterion.patience
    return cut(graph, [], ["pooled"] if is_too_early else ["pooled", "score"])


def trace_tail(model: SentenceTransformer, layout: str = "portable", opset: int = OPSET) -> Fragment:
    """The modules behind the transformer.

    Args:
        model: A plain model.
        layout: What the first output holds.
        opset: Of the graph it is for.

    Returns:
        Fragment: Reads the inputs of the model, ``token_embeddings``, and ``exit_layer`` where an alignment needs it;
        computes ``last_hidden_state`` and ``sentence_embedding``.
    """
    features = traced_features(model)
    width = model[0].get_embedding_dimension()
    tensors = {**features, "token_embeddings": torch.rand(*features["attention_mask"].shape, width)}
    if any(isinstance(module, LayerAlignment) for module in model):
        tensors["exit_layer"] = torch.ones(len(features["attention_mask"]), dtype=torch.long)
    axes = {name: {0: "batch"} if name == "exit_layer" else _TOKENS for name in tensors}
    graph = trace_graph(TailPiece(model, tuple(tensors), layout), tensors, axes, OUTPUTS, opset)
    return cut(graph, [], OUTPUTS)
