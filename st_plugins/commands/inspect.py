"""``st-plugins inspect``: what is in a folder that this package, or sentence-transformers, wrote."""

import json
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from st_plugins.commands.option_types import Json
from st_plugins.errors import InputError
from st_plugins.model_files import read_json

HELP = """
Say what is in a folder: modules, sizes, exit policies with what was proved, fingerprint, and what opens it. Takes
models, ONNX exports, stores of st-plugins index, and outputs of st-plugins embed.

\b
Example:
  st-plugins inspect minilm-elastic
"""
_OUR_OPENERS = (
    "st_plugins.load(folder)",
    "SentenceTransformer(folder, trust_remote_code=True), with st-plugins installed",
)
_PLAIN_OPENERS = ("SentenceTransformer(folder), and all else that opens sentence-transformers models",)


def inspect_command(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="A folder on this machine.")], as_json: Json = False
) -> None:
    """What ``st-plugins inspect`` does with its arguments; :data:`HELP` describes it."""
    facts = facts_of(Path(folder))
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        lines = [str(line) for line in value] if isinstance(value, list) else [str(value)]
        for place, line in enumerate(lines or ["none"]):
            typer.echo(f"{'' if place else name:<{width}}  {line}")


def facts_of(folder: Path) -> dict[str, Any]:
    """What is known about a folder, by name; lists have one line each.

    Raises:
        InputError: If it is none of the four kinds.
        StPluginsError: If it is one, but damaged.

    Example:
        >>> facts_of(Path("minilm-elastic"))["kind"]
        'elastic model'
    """
    manifest = read_json(folder / "manifest.json")
    try:
        if manifest:
            is_store = str(manifest.get("format", "")).startswith("langchain_st_plugins index")
            return _store(manifest) if is_store else _export(folder)
        if (folder / "_job.json").is_file():
            return _job(folder)
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{folder} is damaged, its files lack {error}. Write it again.") from None
    if (folder / "modules.json").is_file():
        return _model(folder)
    raise InputError(
        f"{folder} must hold a model (modules.json), an export or a store (manifest.json), or vectors (_job.json), and "
        "has none of these."
    )


def _model(folder: Path) -> dict[str, Any]:
    import st_plugins  # only now: --help needs none of it
    from st_plugins.modules import ElasticTransformer

    model = st_plugins.load(folder, device="cpu")
    first = model[0]
    is_elastic = isinstance(first, ElasticTransformer)
    is_plain = all(type(module).__module__.startswith("sentence_transformers.") for module in model)
    facts: dict[str, Any] = {
        "kind": "elastic model" if is_elastic else "plain model",
        "modules": [type(module).__name__ for module in model],
        "dimensions": model.get_embedding_dimension(),
        "tokens": model.max_seq_length,
        "parameters": f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        "prompts": [f"{name}: {prompt!r}" for name, prompt in model.prompts.items() if prompt],
    }
    if is_elastic:
        facts["layers"] = first.depth
        full = (first.depth, model.get_embedding_dimension())
        facts["sizes"] = [f"{layer}x{dim}" for layer, dim in sorted({full, *map(tuple, first.sizes)})]
        facts["exits"] = [_policy(policy) for policy in first.exit_policies.values()]
    facts["fingerprint"] = st_plugins.fingerprint(model)
    facts["opens with"] = list(_PLAIN_OPENERS if is_plain else _OUR_OPENERS)
    return facts


def _policy(policy: Any) -> str:
    proof = policy.certificate
    where = f"{policy.name}: leaves at {', '.join(map(str, policy.layers))}"
    if proof is None:
        return f"{where}; nothing proved"
    return (
        f"{where}; {proof.risk} at most {proof.alpha:g} with a probability of {1 - proof.delta:g}, on {proof.n} texts; "
        f"mean layer {proof.expected_layers:.2f}"
    )


def _export(folder: Path) -> dict[str, Any]:
    layout: Any = import_module("st_plugins_export.layout")  # by name: this package does not know the exporter
    manifest = layout.read_manifest(folder)
    is_portable = manifest.layout == "portable"
    anyone = "whatever opens onnx/model.onnx, and pools it by any rule"
    return {
        "kind": "ONNX export",
        "graphs": [f"{size.layer}x{size.dim} {size.precision}: {size.file}" for size in manifest.sizes],
        "exits": [f"{one.name or 'layer per text'} {one.precision}: {one.file}" for one in manifest.exits],
        "tokens": manifest.max_seq_length,
        "prompts": [f"{name}: {prompt!r}" for name, prompt in manifest.prompts.items() if prompt],
        "opset": manifest.opset,
        "written by": [f"{name} {version}" for name, version in manifest.libraries.items()],
        "fingerprint": manifest.full.fingerprint,
        "opens with": [
            "st_plugins_export.OnnxEncoder(folder), without torch",
            anyone if is_portable else "consumers that know the pooling of this model",
        ],
    }


def _store(manifest: dict[str, Any]) -> dict[str, Any]:
    graph = manifest.get("graph")
    return {
        "kind": "vector store",
        "documents": manifest["documents"],
        "dimensions": manifest["width"],
        "made at": f"layer {manifest['layer'] or 'full'}, dim {manifest['dim'] or 'full'}",
        "graph": "none" if graph is None else f"HNSW over {graph['dim']} dimensions",
        "written by": [f"{name} {version}" for name, version in manifest["libraries"].items()],
        "fingerprint": manifest["fingerprint"],
        "opens with": ["langchain_st_plugins.ElasticVectorStore.load_local(folder, embeddings)"],
    }


def _job(folder: Path) -> dict[str, Any]:
    job, done = read_json(folder / "_job.json"), read_json(folder / "_manifest.json")
    state = f"{done['rows']} rows, {done['errors']} without a vector, {done['truncated']} cut" if done else "unfinished"
    return {
        "kind": "vectors of st-plugins embed",
        "rows": state,
        "dimensions": job["dim"],
        "model": job["settings"]["model"],
        "made at": f"layer {job['settings']['layer'] or 'full'}",
        "fingerprint": job["fingerprint"],
        "opens with": ["pyarrow.parquet.read_table(folder)"],
    }
