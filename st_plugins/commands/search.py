"""``st-plugins search``: the nearest documents of a store."""

import json
from importlib import import_module
from typing import Annotated, Any

import typer

from st_plugins.commands.option_types import Device, Json

HELP = """
Find the documents of a store that are nearest to a query. Shallow and narrow queries find documents of any size.

\b
Examples:
  st-plugins search store "how do I sort a list" --model minilm-elastic
  st-plugins search store "how do I sort a list" --model minilm-elastic -k 3 --layer 2 --dim 64
"""
_WIDTH = 100


def search_command(
    store: Annotated[str, typer.Argument(metavar="STORE", help="What st-plugins index wrote.")],
    query: Annotated[str, typer.Argument(metavar="QUERY", help="A text.")],
    model: Annotated[str, typer.Option(help="The model of the store: a folder, an ONNX export, or an id on the hub.")],
    k: Annotated[int, typer.Option("--k", "-k", help="How many.")] = 5,
    layer: Annotated[int | None, typer.Option(help="Blocks the query runs; left out, all of them.")] = None,
    dim: Annotated[int | None, typer.Option(help="Coordinates to compare; left out, all of them.")] = None,
    exit: Annotated[str | None, typer.Option(help="A policy by which the query leaves early.")] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """What ``st-plugins search`` does with its arguments; :data:`HELP` describes it."""
    langchain: Any = import_module("langchain_st_plugins")  # by name: this package does not know it
    embeddings = langchain.ElasticEmbeddings(model=model, device=device)
    opened = langchain.ElasticVectorStore.load_local(store, embeddings)
    budget = {"layer": layer, "dim": dim, "exit": exit}
    asked = {name: value for name, value in budget.items() if value is not None}
    found = opened.similarity_search_with_score(query, k=k, **asked)
    if as_json:
        rows = [{"score": float(score), "id": hit.id, "text": hit.page_content} for hit, score in found]
        typer.echo(json.dumps(rows))
        return
    for hit, score in found:
        line = " ".join(hit.page_content.split())
        typer.echo(f"{score:.4f}  {hit.id}  {line if len(line) <= _WIDTH else line[: _WIDTH - 3] + '...'}")
