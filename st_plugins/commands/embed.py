"""``st-plugins embed``: files in, Parquet with vectors out."""

import dataclasses
import json
from typing import Annotated, Literal

import typer

from st_plugins.bulk.settings import JobSettings

# Lines behind a backspace stay as they are; others are wrapped anew.
HELP = """
Embed every row of some files. Stopped or killed, the same command goes on where it was.

\b
Examples:
  st-plugins embed texts/ vectors/ --model minilm-onnx
  st-plugins embed 'docs/*.jsonl' vectors/ --model minilm-elastic --text body --layer 3
"""


def embed_command(
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="Parquet, JSONL, CSV, TSV or text: a file, a folder, a pattern.")
    ],
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="A new folder, or that of the same job.")],
    model: Annotated[str, typer.Option(help="A model folder, an ONNX export, or the id of a model on the hub.")],
    text: Annotated[str, typer.Option(help="The column with texts.")] = "text",
    id: Annotated[str | None, typer.Option(help="The column with ids; left out, they are <file>:<row>.")] = None,
    layer: Annotated[int | None, typer.Option(help="Blocks to run; left out, all of them.")] = None,
    dim: Annotated[int | None, typer.Option(help="Width of the vectors; left out, the full one.")] = None,
    exit: Annotated[str | None, typer.Option(help="A policy by which texts leave early.")] = None,
    task: Annotated[Literal["document", "query"], typer.Option(help="Which prompt of the model to use.")] = "document",
    backend: Annotated[
        Literal["auto", "torch", "onnx"], typer.Option(help="What runs the model; auto looks at the folder.")
    ] = "auto",
    precision: Annotated[str, typer.Option(help="Of an ONNX export: fp32, fp16, int8, int8-blockwise.")] = "fp32",
    device: Annotated[str | None, typer.Option(help="Where to run, like cuda.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of one worker.")] = None,
    shard_rows: Annotated[int, typer.Option(help="Rows that are done or not done together.")] = 100_000,
    engine: Annotated[
        Literal["auto", "local", "ray"], typer.Option(help="This process, or Ray; auto takes Ray from 100,000 rows on.")
    ] = "auto",
    workers: Annotated[int | None, typer.Option(help="Of Ray; left out, one per GPU, or else per core.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, and no bar.")] = False,
) -> None:
    """What ``st-plugins embed`` does with its arguments; :data:`HELP` describes it."""
    from st_plugins.bulk import embed_files  # only now: --help needs none of it

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
