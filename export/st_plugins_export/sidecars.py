"""Writes the files beside the graphs, so that other readers of ONNX folders find what they look for.

Old and new readers disagree about names, so what both need is written twice: pooling options in the old and the new
spelling, module classes under the paths that every release of sentence-transformers knows, sizes of the network under
the names that servers ask for.

The modules are those that are left to do: applied to ``last_hidden_state`` they give the vectors of the model.
"""

import copy
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sentence_transformers
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, StaticEmbedding, Transformer
from tokenizers import Tokenizer

from st_plugins import modules as our_modules
from st_plugins_export.layout import TOKENIZER_FILE
from st_plugins_export.padded_static import PaddedStaticEmbedding, with_padded_inputs

_NO_LIMIT = 2**32
_LEGACY_PACKAGE = "sentence_transformers.models"
_POOLING_FLAGS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
# Those that text-embeddings-inference knows, and that leave a repeated vector as it is.
_COMMON_POOLINGS = ("mean", "cls", "lasttoken")
_SERVER_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
# What a tokenizer remembers of the file it came from. ``max_length`` among it makes fastembed cut texts too early.
_STALE_TOKENIZER_KEYS = frozenset(
    {"is_local", "local_files_only", "max_length", "pad_to_multiple_of", "stride", "truncation_strategy"}
)


def write_sidecars(model: SentenceTransformer, folder: Path, layout: str = "portable") -> None:
    """Write everything but graphs and manifest.

    Args:
        model: A plain model at full size; its tokenizer keeps the padding and truncation written here.
        folder: Exists already.
        layout: What the first output of the graphs holds, see :func:`~st_plugins_export.export_onnx`.
    """
    if isinstance(model[0], StaticEmbedding):
        _write_static(with_padded_inputs(model)[0], folder)
    else:
        _write_transformer(model[0], folder)
    is_left = layout == "portable" and not isinstance(model[0], StaticEmbedding)
    _write_modules(_modules_left(model) if is_left else list(model.named_children()), folder)
    settings = {
        "__version__": library_versions(),
        "prompts": model.prompts,
        "default_prompt_name": model.default_prompt_name,
        "similarity_fn_name": model.similarity_fn_name,
    }
    if model.truncate_dim is not None:
        settings["truncate_dim"] = model.truncate_dim
    _write_json(folder / "config_sentence_transformers.json", settings)


def _write_transformer(transformer: Transformer, folder: Path) -> None:
    _write_tokenizer(transformer.tokenizer, folder)
    _write_config(transformer, folder)
    limit = token_limit(transformer.tokenizer)
    if limit is not None:  # text-embeddings-inference takes the file for damaged if it names no limit
        _write_json(
            folder / "sentence_bert_config.json",
            {"max_seq_length": limit, "do_lower_case": transformer.do_lower_case},
        )


def _write_static(static: PaddedStaticEmbedding, folder: Path) -> None:
    """The spelling of model2vec, whose models these are in the hands of most people."""
    tokenizer: Any = static.tokenizer
    tokenizer.save(str(folder / TOKENIZER_FILE), pretty=False)
    limit = token_limit(tokenizer)
    names = {"pad_token": tokenizer.padding["pad_token"]}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **names}
    _write_json(folder / "tokenizer_config.json", config if limit is None else {**config, "model_max_length": limit})
    _write_json(folder / "special_tokens_map.json", names)
    _write_json(
        folder / "config.json",
        {"model_type": "model2vec", "architectures": ["StaticModel"], "hidden_dim": static.get_embedding_dimension()},
    )


def library_versions() -> dict[str, str]:
    """Versions of what took part in the export, under the names sentence-transformers uses."""
    return {
        "sentence_transformers": sentence_transformers.__version__,
        "transformers": transformers.__version__,
        "pytorch": torch.__version__,
    }


def token_limit(tokenizer: Any) -> int | None:
    """Tokens after which the tokenizer cuts, or None where it has no limit (transformers then says 10^30)."""
    if isinstance(tokenizer, Tokenizer):  # the one of a StaticEmbedding
        truncation = tokenizer.truncation
        return None if truncation is None else int(truncation["max_length"])
    limit = tokenizer.model_max_length
    return None if limit is None or limit > _NO_LIMIT else int(limit)


def _write_tokenizer(tokenizer: Any, folder: Path) -> None:
    backend = tokenizer.backend_tokenizer
    limit = token_limit(tokenizer)
    if limit is None:
        backend.no_truncation()
    else:
        backend.enable_truncation(limit, direction=tokenizer.truncation_side)
    backend.enable_padding(
        direction=tokenizer.padding_side,
        pad_id=tokenizer.pad_token_id,
        pad_type_id=tokenizer.pad_token_type_id,
        pad_token=tokenizer.pad_token,
    )
    backend.save(str(folder / TOKENIZER_FILE), pretty=False)
    with TemporaryDirectory() as scratch:  # it may write more than anybody needs, code among it
        tokenizer.save_pretrained(scratch)
        config = json.loads((Path(scratch) / "tokenizer_config.json").read_text(encoding="utf-8"))
    if config.get("tokenizer_class") == "TokenizersBackend":  # the name since transformers 5; the old one still works
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    _write_json(
        folder / "tokenizer_config.json", {key: config[key] for key in config if key not in _STALE_TOKENIZER_KEYS}
    )
    _write_json(folder / "special_tokens_map.json", tokenizer.special_tokens_map)


def _write_config(transformer: Transformer, folder: Path) -> None:
    network = transformer.auto_model
    config = copy.deepcopy(network.config)
    config.architectures = [type(network).__name__]
    config.pad_token_id = transformer.tokenizer.pad_token_id  # text-embeddings-inference pads with it
    config.save_pretrained(folder)
    file = folder / "config.json"
    entries = json.loads(file.read_text(encoding="utf-8"))
    for name in _SERVER_SIZES:
        size = getattr(config, name, None)  # DistilBERT and others answer to these names, but write their own
        if size is None and name == "max_position_embeddings":
            size = token_limit(transformer.tokenizer)  # T5 has no positions that could run out
        if size is not None:
            entries.setdefault(name, size)
    _write_json(file, entries)


def _modules_left(model: SentenceTransformer) -> list[tuple[str, Any]]:
    """What is left to do with a vector repeated at each token: to pool it, by any rule that every reader knows."""
    first, *behind = model.children()
    modes = [module.pooling_mode for module in behind if isinstance(module, Pooling)]
    mode = modes[0] if modes and modes[0] in _COMMON_POOLINGS else "mean"
    modules = [first, Pooling(model.get_embedding_dimension(), mode)]
    if isinstance(behind[-1], Normalize) and model.truncate_dim is None:
        modules.append(behind[-1])  # changes nothing, and says that the vectors have unit length
    return [(str(index), module) for index, module in enumerate(modules)]


def _write_modules(modules: list[tuple[str, Any]], folder: Path) -> None:
    entries = []
    for index, (name, module) in enumerate(modules):
        kind = type(module).__name__ if index or isinstance(module, StaticEmbedding) else "Transformer"
        path = f"{index}_{kind}" if index else ""
        package = type(module).__module__ if index and hasattr(our_modules, kind) else _LEGACY_PACKAGE
        entries.append({"idx": index, "name": name, "path": path, "type": f"{package}.{kind}"})
        if index == 0:
            continue  # its files are those in the root
        (folder / path).mkdir()
        if isinstance(module, Pooling):
            _write_json(folder / path / "config.json", _pooling_config(module))
        else:
            module.save(str(folder / path))
    _write_json(folder / "modules.json", entries)


def _pooling_config(pooling: Pooling) -> dict[str, Any]:
    modes = [pooling.pooling_mode] if isinstance(pooling.pooling_mode, str) else list(pooling.pooling_mode)
    return {
        "word_embedding_dimension": pooling.embedding_dimension,
        **{flag: mode in modes for mode, flag in _POOLING_FLAGS.items()},
        "include_prompt": pooling.include_prompt,
        # The flags forget the order, in which several modes are concatenated.
        "pooling_mode": pooling.pooling_mode,
    }


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
