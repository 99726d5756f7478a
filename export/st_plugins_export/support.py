"""Says by name what cannot be exported, before any work starts."""

from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

from st_plugins.errors import ExportError, UnsupportedModelError
from st_plugins.modules import (
    AttentionPooling,
    BidirectionalTransformer,
    ElasticTransformer,
    FoldedLatentAttentionPooling,
    LatentAttentionPooling,
    LayerAlignment,
    MultiLayerPooling,
    Truncation,
)

_FIRST_MODULES = (Transformer, ElasticTransformer, BidirectionalTransformer)
_POOLINGS = (Pooling, AttentionPooling, LatentAttentionPooling, FoldedLatentAttentionPooling, MultiLayerPooling)
_LATER_MODULES = (*_POOLINGS, Dense, Normalize)
# One protobuf file holds less than 2 GiB; the rest is room for the graph itself.
_MOST_BYTES = 2**31 - 2**24
_TEXT_FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}
# Options of Transformer that change tokens per call or per task, which a tokenizer file cannot express.
_TOKEN_OPTIONS = ("processing_kwargs", "query_length", "document_length", "query_expansion")


def check_exportable(model: SentenceTransformer) -> None:
    """Refuse a model whose vectors a graph beside a ``tokenizer.json`` could not reproduce.

    Args:
        model: Plain or elastic.

    Raises:
        UnsupportedModelError: With the name of what stands in the way.
        ExportError: If the weights do not fit into one ONNX file.
    """
    _check_modules(list(model.children()))
    _check_transformer(model[0])
    _check_tokenizer(model.tokenizer)
    if any(model.prompts.values()) and not includes_prompt(model):
        raise UnsupportedModelError(
            "A pooling with include_prompt=False cannot be exported together with prompts, as the graph does not know "
            f"where the prompt ends; got the prompts {[name for name, prompt in model.prompts.items() if prompt]}. "
            "Run such a model with sentence-transformers."
        )
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if dtypes != {torch.float32}:
        raise UnsupportedModelError(f"The weights must be float32, got {dtypes}. Export model.float() instead.")
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    if size > _MOST_BYTES:
        raise ExportError(
            f"One ONNX file holds less than 2 GiB of weights, the model has {size / 2**30:.1f} GiB. Export a smaller "
            "model, for instance st_plugins.bake(model, layer=...); weights beside the graph are not written yet."
        )


def includes_prompt(model: SentenceTransformer) -> bool:
    """Whether pooling covers the tokens of the prompt."""
    return all(module.include_prompt for module in model.children() if isinstance(module, _POOLINGS))


def _check_modules(modules: list[Any]) -> None:
    first, *others = modules
    if type(first) not in _FIRST_MODULES:
        raise UnsupportedModelError(
            f"The first module must be a Transformer, got {type(first).__name__}. Only such pipelines become a graph; "
            "of a Router, export the branches as models of their own."
        )
    if isinstance(first, ElasticTransformer):  # what follows becomes plain modules with the size
        others = [module for module in others if type(module) not in (Truncation, LayerAlignment)]
    for module in others:
        if type(module) not in _LATER_MODULES:
            names = ", ".join(kind.__name__ for kind in _LATER_MODULES)
            raise UnsupportedModelError(
                f"The modules behind the transformer must be {names}, got {type(module).__name__}, which has "
                "not been tried as a graph. Build the pipeline from those."
            )
    if not any(isinstance(module, _POOLINGS) for module in others):
        raise UnsupportedModelError("The model must have a pooling, got none: its vectors belong to tokens, not texts.")


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
