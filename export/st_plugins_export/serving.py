"""Writes ``serving/``: what Triton, MLServer, Vespa and OpenSearch need to serve the graphs beside it.

The folder ``serving_templates`` mirrors it. Python files are copied as they are; in the others ``$name`` is filled in.
Weights are not copied.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from string import Template
from tempfile import TemporaryFile
from typing import Any
from xml.sax.saxutils import escape

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from st_plugins_export.support import includes_prompt

SERVING_FOLDER = "serving"
_TEMPLATES = Path(__file__).parent / "serving_templates"
# Vespa wants a number where the model has no limit.
_NO_LIMIT = 2**20
_CHUNK = 2**20
_MARKS = (
    "\n\nIts pooling leaves prompts out, so `attention_mask` must be 2 at each token of the prompt, special tokens "
    "before it included. None of these servers writes that: they give a text with a prompt a vector in which the "
    "prompt is pooled too. Use `OnnxEncoder`, or send tokens and mask to the graph yourself."
)
_BINARY = """
     Binary vectors, tensor<int8>, need the output last_hidden_state and the strategy {}. """
# To these OpenSearch gives token types, and to no others.
_WITH_TOKEN_TYPES = ("bert", "albert")


@dataclass(frozen=True)
class Served:
    """What servers have to know of an export.

    Args:
        inputs: Names of the tensors its graphs take.
        dim: Width of its vectors.
        max_seq_length: Tokens after which texts are cut, or None.
        prompts: Those that are not empty, by name.
        fingerprint: Identity of the vectors.
        pooling: What is left to do with the first output, before a normalization; None if that is more than a pooling.
        has_unit_length: Whether every vector has length 1.
        pools_prompts: Whether pooling covers prompts.
    """

    inputs: tuple[str, ...]
    dim: int
    max_seq_length: int | None
    prompts: Mapping[str, str]
    fingerprint: str
    pooling: str | None
    has_unit_length: bool
    pools_prompts: bool = True


def describe(
    model: SentenceTransformer,
    layout: str,
    *,
    inputs: tuple[str, ...],
    max_seq_length: int | None,
    fingerprint: str,
) -> Served:
    """What servers have to know of a plain model.

    Args:
        model: At full size.
        layout: What the first output holds.
        inputs: Names of the tensors the graphs take.
        max_seq_length: Tokens after which texts are cut, or None.
        fingerprint: Identity of the vectors.

    Returns:
        Served: For :func:`write_serving`.
    """
    _, *behind = model.children()
    has_unit_length = bool(behind) and isinstance(behind[-1], Normalize) and model.truncate_dim is None
    pooling = "mean" if layout == "portable" else None
    if layout == "tokens" and len(behind) == 1 + has_unit_length and isinstance(behind[0], Pooling):
        pooling = behind[0].pooling_mode if isinstance(behind[0].pooling_mode, str) else None
    prompts = {name: prompt for name, prompt in model.prompts.items() if prompt}
    dim = model.get_embedding_dimension()
    pools_prompts = includes_prompt(model)
    return Served(inputs, dim, max_seq_length, prompts, fingerprint, pooling, has_unit_length, pools_prompts)


def write_serving(folder: Path, served: Served) -> None:
    """Write the folder ``serving``.

    Args:
        folder: The export; graph, tokenizer and configuration are in it already.
        served: What is in there.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = {**_readme(served), **_triton(served), **_vespa(served), "dim": str(served.dim)}
    for template in sorted(_TEMPLATES.rglob("*")):
        if template.is_dir() or "__pycache__" in template.parts:
            continue
        target = folder / SERVING_FOLDER / template.relative_to(_TEMPLATES)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = template.read_text(encoding="utf-8")
        target.write_text(text if template.suffix == ".py" else Template(text).substitute(names), encoding="utf-8")
    register = json.dumps(_opensearch(folder, served, config), indent=2, ensure_ascii=False)
    (folder / SERVING_FOLDER / "opensearch" / "register.json").write_text(register + "\n", encoding="utf-8")


def _readme(served: Served) -> dict[str, str]:
    prompts = [f"- `{name}`: `{prompt!r}`" for name, prompt in served.prompts.items()]
    marks = "" if served.pools_prompts else _MARKS
    return {
        "unit": " of length 1" if served.has_unit_length else "",
        "cut": "no number of tokens" if served.max_seq_length is None else f"{served.max_seq_length} tokens",
        "prompts": ("\n\n" + "\n".join(prompts) if prompts else " This model has none.") + marks,
    }


def _triton(served: Served) -> dict[str, str]:
    tensors = [f'  {{ name: "{name}" data_type: TYPE_INT64 dims: [ -1 ] }}' for name in served.inputs]

    def maps(kind: str) -> str:
        return "\n".join(f'      {kind} {{ key: "{name}" value: "{name}" }}' for name in served.inputs)

    return {"tensors": ",\n".join(tensors), "tokenize_maps": maps("output_map"), "embed_maps": maps("input_map")}


def _vespa(served: Served) -> dict[str, str]:
    element = "transformer-token-type-ids"
    has_types = "token_type_ids" in served.inputs
    prepended, missing = [], []
    for name in ("query", "document") if served.pools_prompts else ():
        prompt = served.prompts.get(name)
        if prompt and prompt.endswith(" "):  # Vespa puts a space between the prompt and the text
            prepended.append(f"        <{name}>{escape(prompt[:-1])}</{name}>\n")
        elif prompt:
            missing.append(name)
    note = "Vespa prepends the prompts named `query` and `document`, if the model has them."
    if not served.pools_prompts:
        note = "Vespa could prepend prompts, and would pool them, which this model does not: it is not told of any."
    if missing:
        note += (
            f" It would put a space behind {' and '.join(missing)}, where this model has none: prepend that yourself."
        )
    return {
        "limit": str(served.max_seq_length or _NO_LIMIT),
        "token_types": f"<{element}>token_type_ids</{element}>" if has_types else f"<{element}/>",
        "binary": _BINARY.format(served.pooling) if served.pooling in ("mean", "cls") else "",
        "prepend": f"      <prepend>\n{''.join(prepended)}      </prepend>\n" if prepended else "",
        "vespa": note,
    }


def _opensearch(folder: Path, served: Served, config: dict[str, Any]) -> dict[str, Any]:
    has_types = "token_type_ids" in served.inputs
    kind = config["model_type"]
    if has_types != (kind in _WITH_TOKEN_TYPES):
        kind = _WITH_TOKEN_TYPES[0] if has_types else f"{kind} without token types"
    with TemporaryFile() as packed:
        _zip_script().write_zip(folder, packed)
        size = packed.tell()
        packed.seek(0)
        digest = hashlib.sha256()
        while chunk := packed.read(_CHUNK):
            digest.update(chunk)
    return {
        "name": "sentence-embedding",
        "version": served.fingerprint[:12],
        "description": "Made by st_plugins_export; how to register it: ../README.md",
        "function_name": "TEXT_EMBEDDING",
        "model_format": "ONNX",
        "model_content_size_in_bytes": size,
        "model_content_hash_value": digest.hexdigest(),
        "model_config": {
            "model_type": kind,
            "embedding_dimension": served.dim,
            "framework_type": "sentence_transformers",
            "pooling_mode": served.pooling or "none",
            "normalize_result": served.has_unit_length,
            "all_config": json.dumps(config, separators=(",", ":")),
        },
        "url": "http://localhost:8000/embedding.zip",
    }


def _zip_script() -> Any:
    """The script that is copied, as a module: it and the hash come from one function."""
    spec: Any = spec_from_file_location("make_zip", _TEMPLATES / "opensearch" / "make_zip.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
