"""The published files of NV-Embed v1 and v2: settings, names, shapes, and loading them. Makes no model of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import MistralConfig, MistralModel

from st_plugins.errors import UnsafeModelError, UnsupportedModelError
from st_plugins.model_files import read_json, shard_names, tensor_shapes
from st_plugins.modules.latent_attention_pooling import LatentAttentionPooling

_BODY = "embedding_model."
_ATTENTION = "latent_attention_model.cross_attend_blocks.0."
_FEED_FORWARD = "latent_attention_model.cross_attend_blocks.1."
# Keys and values are published as one matrix, keys first.
_KEYS_AND_VALUES = f"{_ATTENTION}fn.to_kv.weight"
_HALVES = ("cross_attention.to_keys.weight", "cross_attention.to_values.weight")
_LATENT_NAMES = {
    "latent_attention_model.latents": "latents",
    f"{_ATTENTION}norm.weight": "cross_attention.query_norm.weight",
    f"{_ATTENTION}norm.bias": "cross_attention.query_norm.bias",
    f"{_ATTENTION}norm_context.weight": "cross_attention.context_norm.weight",
    f"{_ATTENTION}norm_context.bias": "cross_attention.context_norm.bias",
    f"{_ATTENTION}fn.to_q.weight": "cross_attention.to_queries.weight",
    f"{_ATTENTION}fn.to_out.weight": "cross_attention.to_output.weight",
    f"{_FEED_FORWARD}norm.weight": "feed_forward.norm.weight",
    f"{_FEED_FORWARD}norm.bias": "feed_forward.norm.bias",
    f"{_FEED_FORWARD}fn.net.0.weight": "feed_forward.expand.weight",
    f"{_FEED_FORWARD}fn.net.0.bias": "feed_forward.expand.bias",
    f"{_FEED_FORWARD}fn.net.2.weight": "feed_forward.contract.weight",
    f"{_FEED_FORWARD}fn.net.2.bias": "feed_forward.contract.bias",
}
# With other settings the published code would compute something else.
_SETTINGS = {"padding_side": "right", "add_eos": True, "is_mask_instruction": True, "mask_type": "b"}
_BODY_SETTINGS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "bos_token_id",
    "eos_token_id",
)


def published_file(folder: Path, name: str) -> Path:
    """One file of a downloaded folder.

    Args:
        folder: The download.
        name: Of the file in it.

    Raises:
        UnsupportedModelError: If it is not there.

    Example:
        >>> published_file(Path("minilm-elastic"), "config.json").name
        'config.json'
    """
    if not (folder / name).is_file():
        raise UnsupportedModelError(
            f"The folder must hold {name}, and {folder} does not. Download it: huggingface_hub.snapshot_download("
            "'nvidia/NV-Embed-v2', allow_patterns=['*.json', '*.safetensors'])."
        )
    return folder / name


def published_settings(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of body and latents from ``config.json``.

    Args:
        folder: The download.

    Raises:
        UnsupportedModelError: If they are missing or not those of NV-Embed v1 and v2.
        UnsafeModelError: If the file is damaged.

    Example:
        >>> published_settings(Path("minilm-elastic"))
        Traceback (most recent call last):
        st_plugins.errors.UnsupportedModelError: config.json must be NV-Embed's, with 'text_config' and ...
    """
    config = read_json(published_file(folder, "config.json"))
    body, latents = (
        config.get(name) if isinstance(config, dict) else None for name in ("text_config", "latent_attention_config")
    )
    if not isinstance(body, dict) or not isinstance(latents, dict):
        raise UnsupportedModelError(
            "config.json must be NV-Embed's, with 'text_config' and 'latent_attention_config', got "
            f"{sorted(config) if isinstance(config, dict) else config!r}. Other models are opened by "
            "SentenceTransformer(folder)."
        )
    width = body.get("hidden_size", 4096)
    expected = {**_SETTINGS, "output_normalize": True, "latent_dim": width, "hidden_dim": width}
    given = {**expected, "latent_dim": 4096, "hidden_dim": 4096, **latents, **config}
    wrong = {name: given[name] for name, value in expected.items() if given[name] != value}
    if wrong:
        needed = {name: expected[name] for name in wrong}
        raise UnsupportedModelError(
            f"config.json must say {needed}, as NV-Embed v1 and v2 do, got {wrong}. This is another model."
        )
    return body, latents


def empty_nv_embed(body: dict[str, Any], latents: dict[str, Any]) -> tuple[MistralModel, LatentAttentionPooling]:
    """The parts of an NV-Embed without memory for their weights.

    Args:
        body: ``text_config`` of the published ``config.json``; what is missing is as in Mistral 7B.
        latents: ``latent_attention_config`` of it; what is missing is as published.

    Returns:
        tuple: Body and pooling, on the device ``meta``.

    Example:
        >>> network, pooling = empty_nv_embed({}, {})
        >>> sum(parameter.numel() for part in (network, pooling) for parameter in part.parameters())
        7851016192
    """
    settings = {name: body[name] for name in _BODY_SETTINGS if name in body}
    # The published code makes its mask from the padding alone, so no window ever applied.
    config = MistralConfig(**settings, sliding_window=None, use_cache=False)
    with torch.device("meta"):
        network = MistralModel(config)
        pooling = LatentAttentionPooling(
            latents.get("hidden_dim", 4096),
            num_latents=latents.get("num_latents_value", 512),
            num_heads=latents.get("num_cross_heads", 8),
            head_dim=latents.get("cross_dim_head", 4096),
            include_prompt=False,
        )
    return network.eval(), pooling.eval()


def published_shapes(network: MistralModel, pooling: LatentAttentionPooling) -> dict[str, tuple[int, ...]]:
    """What a checkpoint of these parts must hold, by its published names.

    Args:
        network: Body.
        pooling: Of the same width.

    Returns:
        dict: Shape by name.

    Example:
        >>> published_shapes(*empty_nv_embed({}, {}))["latent_attention_model.latents"]
        (512, 4096)
    """
    own = {name: tuple(tensor.shape) for name, tensor in pooling.state_dict().items()}
    shapes = {_BODY + name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    shapes |= {published: own[name] for published, name in _LATENT_NAMES.items()}
    inner, width = own[_HALVES[0]]
    return shapes | {_KEYS_AND_VALUES: (2 * inner, width)}


def load_published(folder: Path, network: MistralModel, pooling: LatentAttentionPooling) -> None:
    """Fill both parts from the safetensors of a folder, one tensor at a time, in the precision they have there.

    Args:
        folder: The download.
        network: From :func:`empty_nv_embed`.
        pooling: Likewise.

    Raises:
        UnsupportedModelError: If a tensor is missing, unknown, or has another shape. Nothing has been filled then.
        UnsafeModelError: If the files are damaged, or lie outside of the folder.

    Example:
        >>> load_published(Path("minilm-elastic"), *empty_nv_embed({}, {}))
        Traceback (most recent call last):
        st_plugins.errors.UnsupportedModelError: The weights must be those of NV-Embed ...
    """
    files = _weight_files(folder)
    _check_tensors(files, published_shapes(network, pooling))
    for name, tensor in _tensors(files):
        if name.startswith(_BODY):
            network.load_state_dict({name.removeprefix(_BODY): tensor.clone()}, strict=False, assign=True)
        elif name == _KEYS_AND_VALUES:
            halves = (half.clone() for half in tensor.chunk(2))
            pooling.load_state_dict(dict(zip(_HALVES, halves, strict=True)), strict=False, assign=True)
        else:
            pooling.load_state_dict({_LATENT_NAMES[name]: tensor.clone()}, strict=False, assign=True)
    # Not published: rotary frequencies follow from the configuration.
    network.rotary_emb = type(network.rotary_emb)(config=network.config)


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [published_file(folder, "model.safetensors")]
    names = shard_names(index)
    for name in names:
        if not name.endswith(".safetensors"):
            raise UnsafeModelError(
                f"{index.name} must name safetensors beside it, got {name!r}. Download the folder again."
            )
    return [published_file(folder, name) for name in names]


def _check_tensors(files: list[Path], expected: dict[str, tuple[int, ...]]) -> None:
    """Compare names and shapes before a weight is read."""
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        found |= tensor_shapes(file)
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    shapes = [
        f"{name} {found[name]} instead of {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    if missing or unknown or shapes:
        raise UnsupportedModelError(
            "The weights must be those of NV-Embed in the size that config.json gives. "
            f"Missing: {missing}. Unknown: {unknown}. Other shapes: {shapes}. Download the folder again."
        )


def _tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():
                yield name, tensors.get_tensor(name)
