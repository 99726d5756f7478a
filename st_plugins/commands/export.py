"""``st-plugins export``: a model as ONNX, compared with torch before the folder appears."""

from importlib import import_module
from typing import Annotated, Any, Literal

import typer

from st_plugins.commands.option_types import Json, ModelFolder, parse_size

HELP = """
Export a model, whole, to ONNX, and prove that it gives the same vectors. An earlier export in OUTPUT is replaced.

\b
Examples:
  st-plugins export minilm-elastic minilm-onnx --size 3x128 --precision int8
  st-plugins export minilm-elastic minilm-onnx --check
"""
_CHOICES: dict[str, bool | str] = {"auto": "auto", "yes": True, "no": False}
Choice = Literal["auto", "yes", "no"]


def export_command(
    model: ModelFolder,
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Where to: new, or an earlier export.")],
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYERxDIM", help="A smaller size of an elastic model, like 3x128; may be repeated."),
    ] = None,
    exit: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="An exit policy, by which texts leave early; may be repeated."),
    ] = None,
    layer_per_text: Annotated[
        bool, typer.Option("--layer-per-text", help="Also a graph that is told the layer of each text.")
    ] = False,
    layout: Annotated[
        Literal["portable", "tokens"],
        typer.Option(
            help="What last_hidden_state holds: the sentence embedding at each token, right whoever pools it, "
            "or what the transformer gave."
        ),
    ] = "portable",
    packed: Annotated[
        Choice, typer.Option(help="Compute real tokens only: graphs that keep their values so, all or no export, none.")
    ] = "auto",
    external_data: Annotated[
        Choice, typer.Option(help="Weights in one file beside the graphs; auto: only over 2 GiB.")
    ] = "auto",
    precision: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Every graph in fp16, int8 or int8-blockwise too; may be repeated."),
    ] = None,
    opset: Annotated[int, typer.Option(help="ONNX opset of the graphs.")] = 17,
    tolerance: Annotated[float, typer.Option(help="Largest difference from torch.")] = 1e-5,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; compare the export in OUTPUT with MODEL.")
    ] = False,
    as_json: Json = False,
) -> None:
    """What ``st-plugins export`` does with its arguments; :data:`HELP` describes it."""
    sizes = [parse_size(one) for one in size or ()]

    import st_plugins  # only now: --help needs none of it

    exporter: Any = import_module("st_plugins_export")  # by name: this package does not know the exporter
    loaded = st_plugins.load(model)
    if check:
        report = exporter.check_parity(loaded, output, tolerance=tolerance)
    else:
        report = exporter.export_onnx(
            loaded,
            output,
            sizes=sizes,
            exits=exit or (),
            layer_per_text=layer_per_text,
            layout=layout,
            packed=_CHOICES[packed],
            external_data=_CHOICES[external_data],
            precisions=precision or (),
            opset=opset,
            tolerance=tolerance,
            show_progress=not as_json,
        )
    typer.echo(report.as_json() if as_json else str(report))
