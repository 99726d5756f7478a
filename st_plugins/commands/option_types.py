"""Arguments that several subcommands share, and how a size is written on the command line."""

from typing import Annotated

import typer

ModelFolder = Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, or the id of a model on the hub.")]
AnyModel = Annotated[str, typer.Option(help="A model folder, an ONNX export, or the id of a model on the hub.")]
Source = Annotated[
    str, typer.Argument(metavar="INPUT", help="Parquet, JSONL, CSV, TSV or text: a file, a folder, a pattern.")
]
Ids = Annotated[str | None, typer.Option(metavar="NAME", help="The column with ids; left out, they are <file>:<row>.")]
Layer = Annotated[int | None, typer.Option(help="Blocks to run; left out, all of them.")]
Dim = Annotated[int | None, typer.Option(help="Width of the vectors; left out, the full one.")]
Device = Annotated[str | None, typer.Option(help="Where to run, like cuda.")]
Column = Annotated[str, typer.Option(metavar="NAME", help="The column with texts; text files have none.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and no bar.")]


def parse_size(text: str) -> tuple[int, int]:
    """Layer and dim from ``3x128``.

    Raises:
        typer.BadParameter: If it is anything else.

    Example:
        >>> parse_size("3x128")
        (3, 128)
    """
    layer, _, dim = text.partition("x")
    if not (layer.isdecimal() and dim.isdecimal()):
        raise typer.BadParameter(f"a size must look like 3x128, layer x dim, got {text!r}.")
    return int(layer), int(dim)
