"""Checks the files of a model folder before anything is built from them. Imports nothing for a folder, runs nothing.

What is refused here is what would otherwise cost time or memory without end, be read from somewhere else, or fetch
code. What is merely wrong is found by the module that reads it.
"""

import json
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open

from st_plugins.errors import UnsafeModelError

# The largest tokenizers of today take half of it.
MOST_BYTES_OF_JSON = 64 * 2**20
_LONGEST_NAME = 255  # bytes, the limit of most file systems
_SUFFIXES_OF_WEIGHTS = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_WEIGHT_FILES = ("model", "pytorch_model", "adapter_model")
# What a configuration may claim without weights that back it.
_LAYERS_FOR_FREE = 1000
_SIZE_FOR_FREE = 2**16
_SIZES_PER_DIMENSION = 8
_MODALITIES = ("text", "image", "audio", "video", "message")
# sentence-transformers calls whatever method of the network is named.
_METHOD = re.compile(r"forward|get_[a-z]+_features")
# What it takes of the answer, and where it puts that.
_METHOD_OUTPUTS = ("last_hidden_state", "pooler_output", "logits", "embeddings", "hidden_states")
_MODULE_OUTPUTS = ("token_embeddings", "sentence_embedding", "scores", "causal_logits")
# transformers fetches and runs an attention kernel of this name from the hub.
_ATTENTION_KEYS = ("_attn_implementation", "attn_implementation", "experts_implementation")


def read_json(path: Path) -> Any:
    """The content of a JSON file, {} if there is none.

    Raises:
        UnsafeModelError: If it is damaged, larger than 64 MiB, or nested too deeply.

    Example:
        >>> read_json(Path("no such folder") / "config.json")
        {}
    """
    if not path.is_file():
        return {}
    if path.stat().st_size > MOST_BYTES_OF_JSON:
        raise UnsafeModelError(
            f"{path.name} may have {MOST_BYTES_OF_JSON >> 20} MiB, it has {path.stat().st_size >> 20}. "
            "No model needs that: do not open this folder."
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UnsafeModelError(f"{path.name} must be JSON, but it is damaged: {error}. Save the model again.") from None


def inner_path(path: str, user: str) -> PurePosixPath:
    """A path that stays inside the folder, as an entry of ``modules.json`` gives it.

    Args:
        path: With forward slashes.
        user: Whose it is, for the message.

    Raises:
        UnsafeModelError: If it leads out, or holds what cannot be seen: control characters, marks of writing direction.
    """
    parts = PurePosixPath(path).parts
    if PurePosixPath(path).is_absolute() or ".." in parts or "\\" in path or ":" in path:
        raise UnsafeModelError(
            f"A module's path must lie inside the model folder, got {path!r} for {user!r}. Do not open this folder, "
            "unless you know who wrote that."
        )
    if not path.isprintable() or any(len(part.encode()) > _LONGEST_NAME for part in parts):
        raise UnsafeModelError(
            f"A module's path must be made of names of up to {_LONGEST_NAME} visible characters, got {path[:99]!r} "
            f"for {user!r}."
        )
    return PurePosixPath(path)


def check_places(folder: Path, files: Iterable[Path], boundary: Path) -> None:
    """Refuse what is no file or folder of its own, and JSON that is too large.

    Args:
        folder: The model's.
        files: Files and folders in it.
        boundary: What links may lead to: the folder itself, or the hub's cache around it. In the cache hard links pass,
            since it is huggingface-hub that writes it.

    Raises:
        UnsafeModelError: With the first one.
    """
    files = list(files)
    inside = boundary.resolve()
    for file in files:
        if not file.resolve().is_relative_to(inside):
            raise UnsafeModelError(
                f"Nothing in a model folder may lead out of it, but {file.relative_to(folder)} is a link to "
                f"{file.resolve()}. Replace the link by the file."
            )
        if not file.exists():
            continue
        status = file.stat()
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise UnsafeModelError(
                f"A model folder must hold files and folders, but {file.relative_to(folder)} is a pipe or a device."
            )
        if file.suffix == ".json" and status.st_size > MOST_BYTES_OF_JSON:
            read_json(file)  # raises
    if boundary == folder:
        _check_hard_links(folder, files)


def check_weights(subfolder: Path) -> None:
    """Refuse pickles that would be read, and safetensors that are missing or cut short; weights are not read.

    Raises:
        UnsafeModelError: With the first one.
    """
    files = sorted(subfolder.iterdir()) if subfolder.is_dir() else []
    safetensors = [file for file in files if file.suffix == ".safetensors"]
    pickles = [file for file in files if file.suffix in _SUFFIXES_OF_WEIGHTS and file.stem.startswith(_WEIGHT_FILES)]
    if pickles and not safetensors:
        raise UnsafeModelError(
            f"Weights must be safetensors, got the pickle {pickles[0].name}, which can run code when opened. "
            "If you trust it, load it with SentenceTransformer once and save_pretrained it again."
        )
    for index in (file for file in files if file.name.endswith(".safetensors.index.json")):
        for shard in shard_names(index):
            if not (subfolder / shard).is_file():
                raise UnsafeModelError(_not_beside(index, shard))
    for file in subfolder.glob("sentence_*config.json"):
        _check_methods(read_json(file))
    shapes = [shape for file in safetensors for shape in tensor_shapes(file).values()]
    config = subfolder / "config.json"
    if safetensors and config.is_file():
        _check_claims(read_json(config), len(shapes), max((max(shape, default=1) for shape in shapes), default=1))


def shard_names(index: Path) -> list[str]:
    """The files that an index of safetensors names, each once; whether they are there is not looked at.

    Args:
        index: ``model.safetensors.index.json`` or its like.

    Raises:
        UnsafeModelError: If it is damaged, or names a file somewhere else.
    """
    entries = read_json(index)
    shards = entries.get("weight_map") if isinstance(entries, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise UnsafeModelError(f"{index.name} must have a weight_map of file names, and has none. Copy it again.")
    for shard in shards.values():
        if PurePosixPath(shard).name != shard or not shard.isprintable() or len(shard.encode()) > _LONGEST_NAME:
            raise UnsafeModelError(_not_beside(index, shard))
    return sorted(set(shards.values()))


def _not_beside(index: Path, shard: str) -> str:
    return f"{index.name} names the weights {shard[:99]!r}, which are not beside it. Copy the model again."


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors by name, after safetensors has compared them with the length of the file.

    Args:
        file: Safetensors; no weight is read.

    Raises:
        UnsafeModelError: If it is damaged or cut short.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise UnsafeModelError(f"{file.name} is damaged or cut short ({error}). Copy it again.") from None


def _check_claims(config: Any, tensors: int, largest: int) -> None:
    """Refuse a configuration that makes transformers build what the weights could never fill, or fetch a kernel."""
    for key, value in _settings(config):
        if key in _ATTENTION_KEYS and isinstance(value, str) and "/" in value:
            raise UnsafeModelError(
                f"config.json may not choose code from the hub, got {value!r} for {key!r}. If you trust it, say so "
                "yourself: st_plugins.load(folder, model_kwargs={'attn_implementation': ...})."
            )
        if not isinstance(value, int | float) or not math.isfinite(value):
            continue
        most = math.inf
        if "layer" in key and not key.endswith(("_eps", "_norm")):
            most = max(_LAYERS_FOR_FREE, tensors)
        elif key.endswith(("_size", "_dim", "_heads", "d_model", "d_ff", "_inner", "_embd")) or key == "dim":
            most = max(_SIZE_FOR_FREE, _SIZES_PER_DIMENSION * largest)
        if value > most:
            raise UnsafeModelError(
                f"config.json asks for {key!r} of {value}, and the weights beside it, {tensors} tensors of dimensions "
                f"up to {largest}, cannot be of such a model. Copy the model again."
            )


def _check_methods(config: Any) -> None:
    """Refuse a configuration that calls something else of the network than what embeds."""
    for key, value in _settings(config):
        if key == "method" and not (isinstance(value, str) and _METHOD.fullmatch(value)):
            raise UnsafeModelError(
                f"A configuration may call forward or get_..._features of a network, got the method {value!r}. "
                "Save the model again."
            )
        if key == "modality_config":
            _check_modalities(value)
        names = {"method_output_name": _METHOD_OUTPUTS, "module_output_name": _MODULE_OUTPUTS}.get(key)
        parts = value if isinstance(value, list) and key == "method_output_name" else [value]
        if names is not None and not all(part is None or type(part) is int or part in names for part in parts):
            raise UnsafeModelError(
                f"{key} must be one of {', '.join(sorted(names))}, got {value!r}. Save the model again."
            )
        modality = value if isinstance(value, dict) else {}
        method, taken = modality.get("method"), modality.get("method_output_name", "")
        if taken in ([], ["hidden_states"], "hidden_states") or (taken is None and method == "forward"):
            raise UnsafeModelError(  # it would take no single tensor
                f"method_output_name must say what to take of {method}, a name or a name and a number, "
                f"got {taken!r}. Save the model again."
            )


def _check_modalities(modalities: Any) -> None:
    """Refuse a model that takes nothing, or something nobody has."""
    names = list(modalities) if isinstance(modalities, dict) else []
    if not names or not all(part in _MODALITIES for name in names for part in name.split("+")):
        raise UnsafeModelError(
            f"modality_config must name some of {', '.join(_MODALITIES)}, got {names!r}. Save the model again."
        )


def _settings(config: Any) -> Iterator[tuple[str, Any]]:
    """The settings of a configuration and of those inside it."""
    waiting = [config]
    while waiting:
        entries = waiting.pop()
        if isinstance(entries, list):
            waiting += entries
        elif isinstance(entries, dict):
            for key, value in entries.items():
                yield key, value
                waiting.append(value)


def _check_hard_links(folder: Path, files: list[Path]) -> None:
    names: dict[tuple[int, int], int] = {}
    linked: dict[tuple[int, int], Path] = {}
    for file in files:
        if not file.exists():
            continue
        status = os.lstat(file)
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            key = (status.st_dev, status.st_ino)
            names[key] = names.get(key, 0) + 1
            linked[key] = file
    for key, file in linked.items():
        if names[key] < file.stat().st_nlink:
            raise UnsafeModelError(
                f"Nothing in a model folder may lead out of it, but {file.relative_to(folder)} is a hard link to a "
                "file elsewhere. Copy the folder (cp -r), and open the copy."
            )
