"""Loads model folders without running anything they bring along."""

import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as host_modules
from sentence_transformers.sentence_transformer.modules import Module, Pooling, Router, Transformer
from transformers import PreTrainedTokenizerBase

from st_plugins import modules as our_modules
from st_plugins.counts import is_count
from st_plugins.errors import StPluginsError, UnsafeModelError
from st_plugins.model_files import check_places, check_weights, inner_path, read_json

_SETTINGS = ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
# All that is fetched from a hub: no pickles, no Python.
_FETCHED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md")


def load(
    model_name_or_path: str | Path,
    *,
    device: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_folder: str | None = None,
    local_files_only: bool = False,
    model_kwargs: dict[str, Any] | None = None,
    processor_kwargs: dict[str, Any] | None = None,
    config_kwargs: dict[str, Any] | None = None,
) -> SentenceTransformer:
    """Load a saved model made of sentence-transformers' modules and ours, and nothing else.

    ``SentenceTransformer(folder, trust_remote_code=True)`` gives the same vectors; sentence-transformers 6 asks for the
    flag because our classes are not its own, and the flag also allows any code in the folder. This function needs no
    such permission: it imports only those two packages, reads weights from safetensors only, and follows no path out of
    the folder.

    Args:
        model_name_or_path: A folder, or the id of a model on the hub.
        device: Where to put the model; None chooses as ``SentenceTransformer`` does.
        revision: Branch, tag or commit on the hub.
        token: Hub token.
        cache_folder: Where hub files are kept.
        local_files_only: Use what is in the cache already.
        model_kwargs: For the Hugging Face model, for instance ``{"dtype": torch.bfloat16}``.
        processor_kwargs: For the tokenizer.
        config_kwargs: For the configuration.

    Returns:
        SentenceTransformer: In evaluation mode.

    Raises:
        UnsafeModelError: If the folder names a foreign class, leads out of itself, or holds weights that are missing,
            damaged or pickled. Nothing has been imported or loaded then.
        FileNotFoundError: If there is no such folder, or no ``modules.json`` in it.

    Example:
        >>> model = st_plugins.load("minilm-elastic")
        >>> model.encode("A text", layer=3, truncate_dim=128).shape
        (128,)
    """
    folder = Path(model_name_or_path)
    # A hub snapshot consists of links into its own cache folder; a plain folder needs none.
    boundary = folder
    if not folder.is_dir():
        folder = _download(model_name_or_path, revision, token, cache_folder, local_files_only)
        boundary = folder.parent.parent
    check_places(folder, folder.iterdir(), boundary)
    entries, settings = _read_modules(folder), _read_settings(folder)
    classes = [_check_entry(folder, boundary, entry) for entry in entries]
    of_routes = [
        {"module_classes": _route_classes(folder / entry["path"])} if issubclass(module_class, Router) else {}
        for entry, module_class in zip(entries, classes, strict=True)
    ]
    modules: OrderedDict[str, Any] = OrderedDict()
    for entry, module_class, inner in zip(entries, classes, of_routes, strict=True):
        with _damage_refused(f"The module {entry['name']!r} ({module_class.__name__})"):
            module: Any = module_class.load(
                str(folder),
                subfolder=entry["path"],
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={**(model_kwargs or {}), "use_safetensors": True},
                processor_kwargs=dict(processor_kwargs or {}),
                config_kwargs=dict(config_kwargs or {}),
                backend="torch",
                **inner,
            )
            _check_loaded(module)
        modules[entry["name"]] = module
    with _damage_refused("The model"):
        model = SentenceTransformer(modules=modules, device=device, **settings)
        if not isinstance(model.max_seq_length, int | float | None):
            raise TypeError(f"max_seq_length must be a number, got {model.max_seq_length!r}.")
    model.module_kwargs = OrderedDict((entry["name"], entry.get("kwargs", [])) for entry in entries)
    return model.eval()


def _check_loaded(module: Any) -> None:
    """Refuse what the host loads without a word and cannot use."""
    if isinstance(module, Pooling) and not module.pooling_mode:
        raise ValueError("it has no pooling_mode.")
    if isinstance(module, Transformer):
        _check_usual_tokens(module)


def _check_usual_tokens(transformer: Transformer) -> None:
    """Refuse special tokens without a row in the table: one the vocabulary lacks is given a number behind it.

    A tokenizer without padding is refused too: the host pads every batch, also one of a single text.
    """
    tokenizer, network = transformer.tokenizer, transformer.model
    table = getattr(network.get_input_embeddings(), "weight", None)
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or table is None:
        return
    if tokenizer.pad_token_id is None:
        raise ValueError("its tokenizer has no padding token; load(processor_kwargs={'pad_token': ...}) gives it one.")
    usual = [*tokenizer("")["input_ids"], tokenizer.pad_token_id, tokenizer.unk_token_id]
    beyond = [token for token in usual if token is not None and token >= len(table)]
    if beyond:
        raise ValueError(
            f"its tokenizer gives texts the token {tokenizer.convert_ids_to_tokens(beyond[0])!r}, number {beyond[0]}, "
            f"and the model has {len(table)} tokens."
        )


@contextmanager
def _damage_refused(what: str) -> Iterator[None]:
    """Whatever the host raises on a damaged folder, as an error of ours. A package that is missing is no damage."""
    try:
        yield
    except (StPluginsError, ImportError, MemoryError):
        raise
    except Exception as error:
        raise UnsafeModelError(
            f"{what} cannot be built from its folder: {type(error).__name__}: {error} "
            "Save the model again, or look at the arguments of load."
        ) from error


def _read_settings(folder: Path) -> dict[str, Any]:
    """What ``config_sentence_transformers.json`` says about calls of the model."""
    settings = read_json(folder / "config_sentence_transformers.json")
    if not isinstance(settings, dict):
        raise UnsafeModelError(
            f"config_sentence_transformers.json must hold settings, got {type(settings).__name__}. Save the model "
            "again."
        )
    kept = {name: settings.get(name) for name in _SETTINGS}
    prompts, dim = kept["prompts"], kept["truncate_dim"]
    if prompts is not None and not (isinstance(prompts, dict) and all(isinstance(p, str) for p in prompts.values())):
        raise UnsafeModelError(f"prompts of a model must be texts by name, got {prompts!r}. Save the model again.")
    if dim is not None and not is_count(dim):
        raise UnsafeModelError(f"truncate_dim of a model must be a positive integer, got {dim!r}. Save it again.")
    return kept


def _download(name: str | Path, revision: Any, token: Any, cache_folder: Any, local_files_only: bool) -> Path:
    if isinstance(name, Path) or name.startswith((".", "/", "~")):
        raise FileNotFoundError(f"There is no folder {name}. Name a folder, or a model of the hub as 'owner/name'.")
    return Path(
        snapshot_download(
            name,
            revision=revision,
            token=token,
            cache_dir=cache_folder,
            local_files_only=local_files_only,
            allow_patterns=list(_FETCHED),
        )
    )


def _read_modules(folder: Path) -> list[dict[str, Any]]:
    path = folder / "modules.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"A model folder must hold modules.json, and {folder} does not. "
            "Write it with model.save_pretrained(folder)."
        )
    entries: Any = read_json(path)
    needed = ("name", "path", "type")
    if not isinstance(entries, list) or not entries:
        raise UnsafeModelError(
            f"modules.json must be a list of modules, got {type(entries).__name__}. Save the model again."
        )
    for entry in entries:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in needed):
            raise UnsafeModelError(
                f"Every entry of modules.json must have text for {', '.join(needed)}, got {entry!r}."
            )
        kwargs = entry.get("kwargs", [])
        if not isinstance(kwargs, list) or not all(isinstance(name, str) for name in kwargs):
            raise UnsafeModelError(
                f"modules.json must list the names of arguments for {entry['name']!r}, got {kwargs!r}."
            )
    names = [entry["name"] for entry in entries]
    if len(set(names)) < len(names):
        raise UnsafeModelError(
            f"Every entry of modules.json must have a name of its own, got {names}. Save the model again."
        )
    return entries


def _trusted_class(reference: str) -> type[Module]:
    """The class a saved model means, looked up by name in what is imported already; nothing is imported for it.

    sentence-transformers has moved its files several times, so of its class paths only the last part counts.
    """
    package, _, name = reference.rpartition(".")
    if package.startswith("sentence_transformers."):
        found = getattr(host_modules, name, None)
    else:
        # The exporter stands above this package: its module counts where somebody has imported it.
        home = sys.modules.get(package) if package.startswith("st_plugins_export.") else our_modules
        found = getattr(home, name, None) if home is not our_modules or name in our_modules.__all__ else None
        if found is not None and found.__module__ != package:
            found = None
    if found is None and package.startswith("st_plugins_export."):
        raise UnsafeModelError(
            f"modules.json names {reference!r}, and nothing is imported for a folder. "
            "If it holds an export, import its module first: from st_plugins_export import OnnxModule."
        )
    if not isinstance(found, type) or not issubclass(found, Module):
        raise UnsafeModelError(
            "modules.json may only name modules of sentence_transformers and st_plugins.modules, got "
            f"{reference!r}. If you trust that code, load it with SentenceTransformer(folder, trust_remote_code=True)."
        )
    return found


def _route_classes(folder: Path) -> dict[str, type[Module]]:
    """The classes that a Router's own file names, by what it calls them."""
    entries: Any = read_json(folder / Router.config_file_name) or read_json(folder / "config.json")
    types = entries.get("types") if isinstance(entries, dict) else None
    if not isinstance(types, dict) or not all(isinstance(name, str) for name in types.values()):
        raise UnsafeModelError(f"{Router.config_file_name} must name the classes of the routes, got {types!r}.")
    return {name: _trusted_class(name) for name in types.values()}


def _check_entry(folder: Path, boundary: Path, entry: dict[str, Any]) -> type[Module]:
    """Check one module's class, folder and weights."""
    module_class = _trusted_class(entry["type"])
    subfolder = folder / inner_path(entry["path"], entry["name"])
    # The root holds the folders of the other modules too; they are looked through on their own turn.
    inside = sorted(subfolder.iterdir() if subfolder == folder else subfolder.rglob("*")) if subfolder.is_dir() else []
    check_places(folder, [subfolder, *inside], boundary)
    for weights_folder in {subfolder, *(file.parent for file in inside)}:
        check_weights(weights_folder)
    if issubclass(module_class, Transformer) and not any(file.suffix == ".safetensors" for file in inside):
        raise UnsafeModelError(
            f"The folder of {entry['name']!r} ({module_class.__name__}) has no weights: model.safetensors is missing. "
            "Copy the model again."
        )
    return module_class
