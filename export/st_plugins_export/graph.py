"""The pipeline of a SentenceTransformer as one ONNX graph. Adds no maths: it calls the modules as they are."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from torch import Tensor, nn

import st_plugins
from st_plugins.errors import ExportError
from st_plugins.modules import ElasticTransformer, LatentAttentionPooling
from st_plugins_export.external_data import GraphWriter
from st_plugins_export.extras import require
from st_plugins_export.first_output import first_output
from st_plugins_export.marked_pooling import behind_marks, read_marks
from st_plugins_export.padded_static import with_padded_inputs
from st_plugins_export.rounded_graphs import UNROUNDED, hide_unrounded
from st_plugins_export.rounding import ROUNDINGS, rounding_of
from st_plugins_export.safe_packing import pack_if_equal
from st_plugins_export.sessions import OUTPUTS
from st_plugins_export.support import includes_prompt

# What torch can trace to and these graphs were tried with. The oldest is read by the most servers.
OPSETS = (17, 18, 19, 20)
OPSET = OPSETS[0]
# Why a graph computes padding: somebody wanted it to.
ASKED_FOR = "it was asked for"
# Of different length, so that the traced batch contains padding and nothing skips the mask.
_TRACED_TEXTS = ("A sentence to trace the graph with", "Another")


@dataclass(frozen=True)
class WrittenGraph:
    """What :func:`write_graph` wrote.

    Args:
        nodes: Operators in the graph.
        inputs: Tensors it takes, in order.
        padded_because: Why it computes padding as well as tokens; empty if it does not.
    """

    nodes: int
    inputs: tuple[str, ...]
    padded_because: str = ""


class PipelineGraph(nn.Module):
    """The modules of a plain SentenceTransformer behind positional tensors.

    Args:
        model: Transformer first, or what :func:`~st_plugins_export.padded_static.with_padded_inputs` gives.
        inputs: Names of the tensors, in the order in which ``forward`` gets them.
        layout: What the first output holds, see :func:`~st_plugins_export.export_onnx`.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2", device="cpu")
        >>> ids = torch.ones(2, 5, dtype=torch.int64)
        >>> tokens, sentences = PipelineGraph(model, ("input_ids", "attention_mask"))(ids, ids)
        >>> tokens.shape, sentences.shape
        (torch.Size([2, 5, 384]), torch.Size([2, 384]))
    """

    def __init__(self, model: SentenceTransformer, inputs: tuple[str, ...], layout: str = "portable") -> None:
        super().__init__()
        self.stages = nn.ModuleList(behind_marks(model.children()))
        self.has_marks = not includes_prompt(model)  # see prompt_marks.py
        self.inputs = inputs
        self.layout = layout
        self.truncate_dim = model.truncate_dim

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Tensors (B, T) in; out: the first output (B, T, D), sentence embeddings (B, dim), unrounded ones if any."""
        features: dict[str, Any] = dict(zip(self.inputs, tensors, strict=True))
        features = read_marks(features) if self.has_marks else features
        first, *others = self.stages
        features = first(features)
        token_embeddings = features["token_embeddings"]  # (B, T, D)
        unrounded = []
        for module in others:
            if isinstance(module, ROUNDINGS):
                unrounded = [features["sentence_embedding"]]
            features = module(features)
        # sentence-transformers cuts behind the last module, and does not normalise again.
        sentence_embedding = features["sentence_embedding"][:, : self.truncate_dim]
        return first_output(self.layout, token_embeddings, sentence_embedding), sentence_embedding, *unrounded


def plain_copy(model: SentenceTransformer, *, layer: int | None = None, dim: int | None = None) -> SentenceTransformer:
    """A copy of one size of a model, of sentence-transformers' own modules, on the CPU, ready to encode.

    Args:
        model: Plain or elastic; left as it is.
        layer: Blocks to keep; None for all.
        dim: Width to cut to; None for the full one.

    Returns:
        SentenceTransformer: Shares nothing with the model.

    Raises:
        UnsupportedModelError: If a smaller size of a plain model is asked for.
        SizeError: If the size does not exist.
    """
    is_plain = not isinstance(model[0], ElasticTransformer)
    if is_plain and layer is None and dim is None:
        copied = copy.deepcopy(model)
    else:
        copied = st_plugins.bake(model, layer=layer, dim=dim)
    copied = _on_cpu(copied)
    for name, module in copied.named_children():
        if isinstance(module, LatentAttentionPooling):
            setattr(copied, name, module.fold())  # the same vectors, fewer products
    return copied


def in_float32(model: SentenceTransformer) -> SentenceTransformer:
    """The model itself, or if weights are half precision a copy that holds them as float32.

    Args:
        model: Left as it is.

    Returns:
        SentenceTransformer: Gives the vectors of ``model.float()``.
    """
    if all(parameter.dtype == torch.float32 for parameter in model.parameters()):
        return model
    return copy.deepcopy(model).float()


def elastic_copy(model: SentenceTransformer) -> SentenceTransformer:
    """A copy of an elastic model on the CPU, ready to encode at any layer.

    Args:
        model: Left as it is.

    Returns:
        SentenceTransformer: Shares nothing with the model.
    """
    return _on_cpu(copy.deepcopy(model))


def _on_cpu(copied: SentenceTransformer) -> SentenceTransformer:
    copied = copied.to("cpu").eval()
    if isinstance(copied[0], StaticEmbedding):
        return copied
    copied[0].unpad_inputs = False
    network = copied[0].auto_model
    if "flash" in str(network.config._attn_implementation):
        _set_attention(network, "sdpa")  # flash attention needs CUDA
    return copied


def write_graph(
    model: SentenceTransformer,
    file: Path,
    layout: str = "portable",
    writer: GraphWriter | None = None,
    opset: int = OPSET,
    *,
    packed: bool = True,
) -> WrittenGraph:
    """Trace a plain model and write it as one ONNX file, batch and sequence dynamic.

    Args:
        model: From :func:`plain_copy`.
        file: Where to.
        layout: What the first output holds, see :func:`~st_plugins_export.export_onnx`.
        writer: Saves the graphs of this export; None for one of its own.
        packed: Compute real tokens only, see :mod:`~st_plugins_export.packing`, unless the network reads padding.
        opset: One of ``OPSETS``.

    Returns:
        WrittenGraph: What is in it.

    Raises:
        ExportError: If torch cannot trace the model or onnx rejects the result.
    """
    model = with_padded_inputs(model)
    features = traced_features(model)
    axes = {name: {0: "batch", 1: "sequence"} for name in (*features, OUTPUTS[0])}
    rounded = (UNROUNDED,) if rounding_of(model) else ()
    axes.update((name, {0: "batch"}) for name in (OUTPUTS[1], *rounded))
    network = getattr(model[0], "auto_model", None)
    try:
        with eager_attention(network):
            pipeline = PipelineGraph(model, tuple(features), layout)
            graph = trace_graph(pipeline, features, axes, (*OUTPUTS, *rounded), opset)
        feeds = {name: value.numpy() for name, value in features.items()}
        packing = pack_if_equal(graph, feeds, compared=rounded or OUTPUTS) if packed else None
        graph = packing.model if packing else graph
        hide_unrounded(graph)
        _name_widths(graph, (first_width(model, layout), model.get_embedding_dimension()))
        (writer or GraphWriter(file.parent)).save(graph, file)
    except (ExportError, OSError):  # a full disk is no fault of the model
        raise
    except Exception as error:  # torch and onnx raise whatever comes up
        raise ExportError(f"{type(network or model[0]).__name__} could not be written as ONNX: {error}") from error
    reason = packing.reason if packing else ASKED_FOR
    return WrittenGraph(len(graph.graph.node), tuple(tensor.name for tensor in graph.graph.input), reason)


def traced_features(model: SentenceTransformer) -> dict[str, Tensor]:
    """The inputs (2, T) that graphs are traced with, padding among them."""
    return {name: value for name, value in model.preprocess(list(_TRACED_TEXTS)).items() if isinstance(value, Tensor)}


@contextmanager
def eager_attention(network: Any) -> Iterator[None]:
    """Attention as matrix products: the fewest operators, and the fastest on CPUs. None has no attention."""
    if network is None:
        yield
        return
    before = network.config._attn_implementation
    _set_attention(network, "eager")
    try:
        yield
    finally:
        _set_attention(network, before)


def _set_attention(network: Any, implementation: str) -> None:
    network.set_attn_implementation(implementation)  # a family that cannot switch says so in the log, and stays
    for module in network.modules():
        config: Any = getattr(module, "config", None)
        if hasattr(config, "_attn_implementation"):  # in a view the blocks have an object of their own
            config._attn_implementation = network.config._attn_implementation


def trace_graph(
    module: nn.Module,
    tensors: dict[str, Tensor],
    axes: dict[str, dict[int, str]],
    outputs: tuple[str, ...],
    opset: int = OPSET,
) -> Any:
    """Trace a module.

    Args:
        module: Takes tensors by position.
        tensors: By the names they get in the graph.
        axes: The axes that vary, by the name of their input or output; the others are what they are now.
        outputs: Names of what it returns.
        opset: One of ``OPSETS``.

    Returns:
        onnx.ModelProto: With its weights.
    """
    onnx = require("onnx", extra="onnx")
    # Through a file: what is larger than 2 GiB comes in several.
    with TemporaryDirectory() as scratch, warnings.catch_warnings(), torch.no_grad():
        # Tracing exports several times faster than torch.export and its graphs run faster on CPUs. What a trace may get
        # wrong is caught by the parity check over other batches and lengths.
        for message in ("You are using the legacy TorchScript", "The feature will be removed"):
            warnings.filterwarnings("ignore", message, DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        for message in ("Exporting aten::index operator", "To copy construct from a tensor"):
            warnings.filterwarnings("ignore", message, UserWarning)
        torch.onnx.export(
            module.eval(),
            tuple(tensors.values()),
            str(Path(scratch, "graph.onnx")),
            dynamo=False,
            opset_version=opset,
            input_names=list(tensors),
            output_names=list(outputs),
            dynamic_axes=axes,
        )
        return onnx.load(Path(scratch, "graph.onnx"))


def first_width(model: SentenceTransformer, layout: str) -> int:
    """Width of the first output."""
    return model[0].get_embedding_dimension() if layout == "tokens" else model.get_embedding_dimension()


def _name_widths(graph: Any, widths: tuple[int, int]) -> None:
    """Servers size their buffers by the declared shapes, and the trace leaves the last ones open."""
    for output, width in zip(graph.graph.output, widths, strict=True):
        output.type.tensor_type.shape.dim[-1].dim_value = width
