"""``st-plugins index``: a vector store of texts, for ``st-plugins search`` and LangChain."""

import json
from importlib import import_module
from typing import Annotated, Any

import typer

from st_plugins.commands.option_types import AnyModel, Column, Device, Dim, Ids, Json, Layer, Source

HELP = """
Embed every text of some files into a store that can be searched, here or with LangChain. The same OUTPUT again replaces
the texts that have the same ids.

\b
Examples:
  st-plugins index corpus.jsonl store --model minilm-elastic --text body --id key
  st-plugins search store "how do I sort a list" --model minilm-elastic --layer 2
"""


def index_command(
    source: Source,
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="The folder of the store.")],
    model: AnyModel,
    text: Column = "text",
    id: Ids = None,
    layer: Layer = None,
    dim: Dim = None,
    hnsw_from: Annotated[
        int | None, typer.Option(help="Documents from which a graph finds them, not a scan; needs the extra hnsw.")
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """What ``st-plugins index`` does with its arguments; :data:`HELP` describes it."""
    from pathlib import Path  # only now, with what follows: --help needs none of it

    from st_plugins.commands.text_files import checked_rows

    langchain: Any = import_module("langchain_st_plugins")  # by name: this package does not know it
    embeddings = langchain.ElasticEmbeddings(
        model=model, layer=layer, dim=dim, device=device, show_progress=not as_json
    )
    if (Path(output) / "manifest.json").is_file():
        store = langchain.ElasticVectorStore.load_local(output, embeddings, hnsw_from=hnsw_from)
    else:
        store = langchain.ElasticVectorStore(embeddings, hnsw_from=hnsw_from)
    before = len(store.index)
    for rows in checked_rows(source, text=text, id=id):
        kept = [(key, value) for key, value in zip(rows.ids, rows.texts, strict=True) if value and value.strip()]
        if kept:
            store.add_texts([value for _, value in kept], ids=[key for key, _ in kept])
    store.save_local(output)
    found = {"folder": output, "documents": len(store.index), "new": len(store.index) - before}
    found["fingerprint"] = store.index.fingerprint
    if as_json:
        typer.echo(json.dumps(found))
    else:
        typer.echo(f"{output}: {found['documents']} documents, {found['new']} of them new")
