"""``st-plugins embed``: files in, Parquet with vectors out."""

import dataclasses
import json
from typing import Annotated

import typer

from st_plugins.backends import Backend
from st_plugins.bulk import JobSettings, embed_files
from st_plugins.bulk.embedding_jobs import SHARD_ROWS, Engine
from st_plugins.bulk.settings import Task
from st_plugins.commands.option_types import AnyModel, Column, Device, Dim, Ids, Json, Layer, Source

# Lines behind a backspace stay as they are; others are wrapped anew.
HELP = """
Embed every row of some files. Stopped or killed, the same command goes on where it was.

\b
Examples:
  st-plugins embed texts/ vectors/ --model minilm-onnx
  st-plugins embed 'docs/*.jsonl' vectors/ --model minilm-elastic --text body --layer 3
"""


def embed_command(
    source: Source,
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="A new folder, or that of the same job.")],
    model: AnyModel,
    text: Column = "text",
    id: Ids = None,
    layer: Layer = None,
    dim: Dim = None,
    exit: Annotated[str | None, typer.Option(help="A policy by which texts leave early.")] = None,
    task: Annotated[Task, typer.Option(help="Which prompt of the model to use.")] = "document",
    backend: Annotated[Backend, typer.Option(help="What runs the model; auto looks at the folder.")] = "auto",
    precision: Annotated[str, typer.Option(help="Of an ONNX export: fp32, fp16, int8, int8-blockwise.")] = "fp32",
    device: Device = None,
    threads: Annotated[int | None, typer.Option(help="Threads of one worker.")] = None,
    shard_rows: Annotated[int, typer.Option(help="Rows that are done or not done together.")] = SHARD_ROWS,
    engine: Annotated[Engine, typer.Option(help="This process, or Ray; auto takes Ray from 100,000 rows on.")] = "auto",
    workers: Annotated[int | None, typer.Option(help="Of Ray; left out, one per GPU, or else per core.")] = None,
    as_json: Json = False,
) -> None:
    """What ``st-plugins embed`` does with its arguments; :data:`HELP` describes it."""
    settings = JobSettings(
        model,
        layer=layer,
        truncate_dim=dim,
        exit=exit,
        task=task,
        backend=backend,
        precision=precision,
        device=device,
        threads=threads,
    )
    report = embed_files(
        source,
        output,
        settings,
        text=text,
        id=id,
        shard_rows=shard_rows,
        engine=engine,
        workers=workers,
        show_progress=not as_json,
    )
    if as_json:
        typer.echo(json.dumps({**dataclasses.asdict(report), "folder": str(report.folder)}))
    else:
        typer.echo(str(report))
