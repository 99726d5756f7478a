"""Says by name what cannot be exported, before any work starts."""

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
    StaticEmbedding,
    Transformer,
    WeightedLayerPooling,
    WordWeights,
)

from st_plugins.errors import ExportError, UnsupportedModelError
from st_plugins.modules import (
    AttentionPooling,
    BidirectionalTransformer,
    DebiasProjection,
    ElasticTransformer,
    FoldedLatentAttentionPooling,
    InterpolatedTransformer,
    LatentAttentionPooling,
    LayerAlignment,
    MultiLayerPooling,
    RelativeRepresentation,
    ResidualMap,
    RobustNormalizer,
    Truncation,
)
from st_plugins_export.external_data import MOST_BYTES, check_tensor, too_large, too_large_to_lower
from st_plugins_export.rounding import ROUNDINGS, rounding_of

_FIRST_MODULES = (Transformer, ElasticTransformer, BidirectionalTransformer, InterpolatedTransformer)
_POOLINGS = (Pooling, AttentionPooling, LatentAttentionPooling, FoldedLatentAttentionPooling, MultiLayerPooling)
_MAPS = (ResidualMap, RelativeRepresentation, RobustNormalizer, DebiasProjection)
_BEHIND_POOLING = (Dense, *_MAPS, *ROUNDINGS, LayerNorm, Dropout, Normalize)
_LATER_MODULES = (*_POOLINGS, WeightedLayerPooling, WordWeights, *_BEHIND_POOLING)
# Why others of sentence-transformers cannot be a graph that turns tokens of tokenizer.json into vectors.
_REASONS = {
    "BoW": "which counts words in Python. Train a StaticEmbedding in its place",
    "WordEmbeddings": "whose tokens are made in Python. StaticEmbedding(tokenizer, embedding_weights) gives their mean",
    "LSTM": "which needs the lengths that only WordEmbeddings gives. Use a Transformer",
    "CNN": "which reads padding, so that a text's vector would depend on its batch. Use a Transformer",
    "SpladePooling": "whose vectors are sparse, which OnnxEncoder's are not. Run it with sentence-transformers",
    "PromptReps": "which writes a chat around every text, as no tokenizer.json does. Run it with sentence-transformers",
    "Router": "which must be the first module of a model",
    "FixedDimensionalEncoder": "whose buckets depend on the task and on every token. Run it with sentence-transformers",
    "CLIPModel": "which reads images. Build a pipeline of its text model alone",
}
_ANY_OTHER = "which has not been tried as a graph. Build the pipeline from those"
_DTYPES = frozenset({torch.float32, torch.float16, torch.bfloat16})
_TEXT_FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}
# Options of Transformer that change tokens per call or per task, which a tokenizer file cannot express.
_TOKEN_OPTIONS = ("processing_kwargs", "query_length", "document_length", "query_expansion")


def check_exportable(
    model: SentenceTransformer, *, external_data: bool | str = "auto", precisions: Sequence[str] = ()
) -> None:
    """Refuse a model whose vectors a graph beside a ``tokenizer.json`` could not reproduce.

    Args:
        model: Plain or elastic.
        external_data: As in :func:`~st_plugins_export.export_onnx`.
        precisions: Those besides float32.

    Raises:
        UnsupportedModelError: With the name of what stands in the way.
        ExportError: If weights are too large for what shall be done with them.
    """
    first, *others = model.children()
    if type(first) is StaticEmbedding:
        _check_later_modules(others, _BEHIND_POOLING)
    else:
        _check_modules(first, others)
        _check_transformer(first)
        _check_tokenizer(model.tokenizer)
    _check_rounding(model)
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if not dtypes <= _DTYPES:
        raise UnsupportedModelError(
            f"The weights must be float32, float16 or bfloat16, got {sorted(map(str, dtypes - _DTYPES))}. Load the "
            "model without quantization, or export model.float()."
        )
    _check_sizes(model, external_data, precisions)


def includes_prompt(model: SentenceTransformer) -> bool:
    """Whether pooling covers the tokens of the prompt."""
    return all(module.include_prompt for module in model.children() if isinstance(module, _POOLINGS))


def _check_sizes(model: SentenceTransformer, external_data: bool | str, precisions: Sequence[str]) -> None:
    """Before minutes are spent on tracing."""
    sizes = {name: 4 * parameter.numel() for name, parameter in model.named_parameters()}  # float32
    for name, parameter in model.named_parameters():
        check_tensor(name, parameter.shape, sizes[name])
    size = sum(sizes.values())
    if size > MOST_BYTES and external_data is False:
        raise ExportError(too_large(size))
    if size > MOST_BYTES and precisions:
        raise ExportError(too_large_to_lower("the model", size))


def _check_modules(first: Any, others: list[Any]) -> None:
    if type(first) not in _FIRST_MODULES:
        name = type(first).__name__
        reason = _REASONS.get(name, "which has not been tried as a graph. Start with one of those")
        raise UnsupportedModelError(
            f"The first module must be a Transformer, a StaticEmbedding or a Router, got {name}, {reason}."
        )
    if isinstance(first, ElasticTransformer):  # what follows becomes plain modules with the size
        others = [module for module in others if type(module) not in (Truncation, LayerAlignment)]
    _check_later_modules(others, _LATER_MODULES)
    if not any(isinstance(module, _POOLINGS) for module in others):
        raise UnsupportedModelError("The model must have a pooling, got none: its vectors belong to tokens, not texts.")


def _check_later_modules(modules: list[Any], kinds: tuple[type, ...]) -> None:
    for module in modules:
        if type(module) not in kinds:
            name = type(module).__name__
            raise UnsupportedModelError(
                f"The modules behind the first must be {', '.join(kind.__name__ for kind in kinds)}, got {name}, "
                f"{_REASONS.get(name, _ANY_OTHER)}."
            )


def _check_rounding(model: SentenceTransformer) -> None:
    names = [type(module).__name__ for module in model.children() if isinstance(module, ROUNDINGS)]
    if not names:
        return
    last = rounding_of(model)
    if last is None or len(names) > 1:
        raise UnsupportedModelError(f"{names[0]} must be the last module of a model, and is not. Put it there.")
    if last.float_queries:
        raise UnsupportedModelError(
            f"Behind a Router {names[0]} must have float_queries=False, as each route has one graph, and it has not. "
            "Set that, and where queries shall be floats put the module into the route of documents."
        )
    widths = [model.truncate_dim, *(module.dim for module in model.children() if isinstance(module, Truncation))]
    if any(width is not None for width in widths):
        raise UnsupportedModelError(
            f"{names[0]} rounds all dims together, so its vectors must not be cut, and the model cuts them to "
            f"{next(width for width in widths if width is not None)}. Set truncate_dim, or Truncation's dim, to None."
        )


def _check_transformer(transformer: Transformer) -> None:
    name = type(transformer.auto_model).__name__
    if transformer.backend != "torch":
        raise UnsupportedModelError(f"The model must run on torch, got backend={transformer.backend!r}. Load it so.")
    if set(transformer.modality_config) != {"text"} or transformer.modality_config["text"] != _TEXT_FORWARD:
        raise UnsupportedModelError(
            f"{name} must read plain text and give its last hidden state, got {transformer.modality_config}. "
            "A chat template cannot be exported: load the model with modality_config limited to text."
        )
    for option in _TOKEN_OPTIONS:
        value = getattr(transformer, option, None)  # sentence-transformers 5.7 lacks some
        if value:
            raise UnsupportedModelError(f"Transformer({option}={value!r}) cannot be exported. Set it to None.")
    if not isinstance(getattr(transformer.auto_model.config, "num_hidden_layers", None), int):
        raise UnsupportedModelError(f"The configuration of {name} must say num_hidden_layers, and does not.")


def _check_tokenizer(tokenizer: Any) -> None:
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise UnsupportedModelError(
            f"The tokenizer must be one of the tokenizers library, got {type(tokenizer).__name__}: "
            "only those can be written as tokenizer.json."
        )
    if tokenizer.pad_token_id is None:
        raise UnsupportedModelError(
            f"{type(tokenizer).__name__} has no padding token, so texts of different length cannot share a batch. "
            "Set model.tokenizer.pad_token."
        )
