"""``st-plugins report``: one HTML page about a model, for a browser without a network."""

from typing import Annotated, Any

import typer

from st_plugins.commands.option_types import Column, Device, ModelFolder
from st_plugins.errors import InputError

HELP = """
Write one HTML page: every size and what it costs, early exits, an export, the size of an index. It needs no network.

\b
Examples:
  st-plugins report minilm-elastic report.html --retrieval scifact --query-layer 2 --query-layer 6 --layer 6
  st-plugins report minilm-elastic report.html --pairs sts.csv --texts queries.txt --export minilm-onnx

--pairs and --retrieval are those of st-plugins grid. --texts draws the risk of leaving early against the mean layer.
"""


def report_command(
    model: ModelFolder,
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="The page; an earlier one is replaced.")],
    pairs: Annotated[str | None, typer.Option(help="Pairs of texts with a score.")] = None,
    retrieval: Annotated[str | None, typer.Option(help="A folder in BEIR's layout.")] = None,
    layer: Annotated[
        list[int] | None, typer.Option(help="May be repeated. Left out, those it was trained for.")
    ] = None,
    dim: Annotated[list[int] | None, typer.Option(help="May be repeated. Left out, those it was trained for.")] = None,
    query_layer: Annotated[list[int] | None, typer.Option(help="Of queries; may be repeated.")] = None,
    texts: Annotated[str | None, typer.Option(help="Texts that may leave early.")] = None,
    text: Column = "text",
    export: Annotated[str | None, typer.Option(help="The folder of an export of the model.")] = None,
    name: Annotated[str | None, typer.Option(help="Title of the page; left out, MODEL.")] = None,
    device: Device = None,
) -> None:
    """What ``st-plugins report`` does with its arguments; :data:`HELP` describes it."""
    if pairs is not None and retrieval is not None:
        raise InputError("At most one of --pairs and --retrieval can be given, got both.")

    import st_plugins  # only now: --help needs none of it
    from st_plugins.commands.text_files import read_texts
    from st_plugins.evaluation import write_report_page
    from st_plugins.exits.curves import exit_curves

    evaluator = _evaluator(pairs, retrieval)
    drawn = None if texts is None else read_texts(texts, text)
    loaded = st_plugins.load(model, device=device)
    shown: dict[str, Any] = {"name": name or model, "export": export}
    if evaluator is not None:
        grid = st_plugins.evaluation.ElasticGridEvaluator(evaluator, layers=layer, dims=dim, query_layers=query_layer)
        grid(loaded)
        shown |= {"points": grid.points, "metric": evaluator.primary_metric}
    if drawn is not None:
        shown["curves"] = exit_curves(loaded, drawn)
    write_report_page(loaded, output, **shown)
    typer.echo(f"{output}: open it in a browser")


def _evaluator(pairs: str | None, retrieval: str | None) -> Any:
    from st_plugins.commands.grid import similarity_evaluator
    from st_plugins.commands.retrieval_sets import retrieval_evaluator

    if retrieval is not None:
        return retrieval_evaluator(retrieval)
    return None if pairs is None else similarity_evaluator(pairs)
