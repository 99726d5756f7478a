"""The identity of an embedding space: one hash over everything that changes a vector."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Router
from tokenizers import Tokenizer
from torch import nn

from st_plugins.blocks import check_layer
from st_plugins.errors import ExitError, SizeError
from st_plugins.identity import changed, with_precision
from st_plugins.modules import ElasticTransformer, LayerAlignment
from st_plugins.weight_digests import UNUSED_WEIGHTS
from st_plugins.width import check_dim, embedding_width

# What a configuration says about itself or about the last run, not about the vectors.
_CONFIG_NOISE = frozenset(
    {
        *("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"),
        *("tie_word_embeddings", "output_attentions", "output_hidden_states", "return_dict"),
        "_attn_implementation_autoset",
    }
)
_ASSUMED_BY_OLDER_RELEASES = (
    ("module_input_name", "sentence_embedding"),
    ("module_output_name", "sentence_embedding"),
)
# The sizes a model was trained for, and the policies it has, say which calls are allowed, not what they return.
_MODULE_NOISE = frozenset({"sizes", "exit_policies", "unpad_inputs"})


def fingerprint(
    model: SentenceTransformer,
    *,
    layer: int | None = None,
    dim: int | None = None,
    exit: str | float | None = None,
    precision: str = "fp32",
) -> str:
    """SHA-256 over everything that changes a vector of this model at this size.

    That is: weights and their dtype, architecture, tokenizer, modules and their options, prompts, the length limit,
    layer and dim, and what decides each text's exit. It is not: where the model lies, library versions, device, the
    sizes it was trained for, what its policies are called. Two equal fingerprints mean vectors that may be compared; an
    index keeps it and refuses another.

    Args:
        model: Any sentence-transformers model, or the export of one in an ``OnnxModule``: what has a file of its own
            has the fingerprint that the model had, and what is cut to a dim on the way another one.
        layer: The layer used, or None for the full depth.
        dim: The dim used, or None for the model's own width.
        exit: The policy or threshold used, or None for no early exits. A threshold means the layers trained so far.
        precision: In which an export of the model computes, see :func:`st_plugins_export.export_onnx`.

    Returns:
        str: 64 hexadecimal digits, the same after saving and loading, on every machine.

    Raises:
        SizeError: If the layer or the dim does not exist.
        ExitError: If the policy does not exist.
        UntrainedSizeError: If a threshold is given and there is no layer to leave at.

    Example:
        >>> model = st_plugins.load("minilm-elastic")
        >>> fingerprint(model) == fingerprint(st_plugins.load("minilm-elastic"))
        True
        >>> fingerprint(model) == fingerprint(model, layer=3)
        False
    """
    first = model[0]
    if hasattr(first, "exported_fingerprint"):  # an export holds no weights, but knows whose they are
        width = model.get_embedding_dimension() if dim is None else dim
        known = first.exported_fingerprint(layer=layer, dim=width, exit=exit)
        settings = first.exported_settings
        changes = {name: getattr(model, name) for name in settings if getattr(model, name) != settings[name]}
        return with_precision(changed(known, changes), precision)
    depth = first.depth if isinstance(first, ElasticTransformer) else None
    if layer is not None:
        if depth is None:
            raise SizeError(
                f"Only an elastic model has layers to choose from, got layer={layer!r} for a plain one. Leave it out, "
                "or make the model elastic: st_plugins.elastic(model)."
            )
        check_layer(layer, depth)
    if exit is not None and depth is None:
        raise ExitError(f"Only an elastic model has exits, got exit={exit!r} for a plain one.")
    if dim is not None:
        check_dim(dim, embedding_width(model.children()))
    digest = hashlib.sha256()
    settings = {
        "prompts": model.prompts,
        "default_prompt_name": model.default_prompt_name,
        "max_seq_length": model.max_seq_length,
        "layer": None if layer == depth else layer,
        "dim": dim if dim is not None else model.get_embedding_dimension(),
    }
    if exit is not None:
        settings["exit"] = first.exit_policy(exit).decision()
    is_full = layer in (None, depth) and exit is None
    for part in (_canonical(settings), *_modules(model.children(), is_full=is_full)):
        digest.update(hashlib.sha256(part).digest())
    return with_precision(digest.hexdigest(), precision)


def _modules(modules: Iterable[nn.Module], *, is_full: bool) -> Iterator[bytes]:
    for module in modules:
        if isinstance(module, LayerAlignment) and is_full:
            continue  # it leaves the full depth alone: an index made before the maps were fitted stays valid
        # Not its file: sentence-transformers has moved its own more than once.
        yield type(module).__name__.encode()
        if isinstance(module, Router):
            yield from _routes(module)
            continue
        if hasattr(module, "exported_fingerprint"):
            yield module.exported_fingerprint().encode()
            continue
        if hasattr(module, "get_config_dict"):
            yield _canonical(_without(module.get_config_dict(), _MODULE_NOISE))
        network: Any = getattr(module, "model", None)
        if hasattr(network, "config"):
            yield _canonical(_without(network.config.to_diff_dict(), _CONFIG_NOISE))
        tokenizer = getattr(module, "tokenizer", None)
        if hasattr(tokenizer, "backend_tokenizer"):
            yield _canonical(_tokenizer(tokenizer))
        elif isinstance(tokenizer, Tokenizer):  # of a StaticEmbedding, which has no other length limit
            yield _canonical(_without(json.loads(tokenizer.to_str()), {"padding"}))
        yield from _weights(module)


def _routes(router: Router) -> Iterator[bytes]:
    """Which texts take which route, and what is on it."""
    mappings = sorted((str(key), route) for key, route in router.route_mappings.items())
    yield _canonical([router.default_route, mappings])
    for name, modules in router.sub_modules.items():
        yield name.encode()
        yield from _modules(modules, is_full=True)


def _tokenizer(tokenizer: Any) -> dict[str, Any]:
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    # The last call leaves its truncation and padding behind in these two.
    return {**_without(description, {"truncation", "padding"}), "padding_side": tokenizer.padding_side}


def _weights(module: nn.Module) -> Iterator[bytes]:
    for name, tensor in sorted(module.state_dict().items()):
        if (
            name.startswith(f"model.{UNUSED_WEIGHTS}")
            and getattr(module, "module_output_name", "") == "token_embeddings"
        ):
            continue
        yield _canonical([name, str(tensor.dtype), list(tensor.shape)])
        # Bytes as they are: numpy has no bfloat16.
        yield tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _without(entries: dict[str, Any], noise: set[str] | frozenset[str]) -> dict[str, Any]:
    """The entries that say something: releases differ in which unset options they write out."""
    return {
        key: value
        for key, value in entries.items()
        if key not in noise
        and value is not None
        and (value is not False or key == "is_causal")  # the one option whose False changes the vectors
        and (key, value) not in _ASSUMED_BY_OLDER_RELEASES
    }


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=_plain, ensure_ascii=True).encode()


def _plain(value: Any) -> Any:
    """What JSON has no form for; the order of a set is another one in every process."""
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)
