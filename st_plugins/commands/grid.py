"""``st-plugins grid``: how good each size of a model is, on labels of yours."""

import dataclasses
import json
from typing import Annotated, Any

import typer

from st_plugins.commands.option_types import Device, Json, ModelFolder
from st_plugins.errors import InputError

HELP = """
Score a model at every layer and dim, and what each layer costs.

\b
Examples:
  st-plugins grid minilm-elastic --pairs sts.csv
  st-plugins grid minilm-elastic --retrieval scifact --layer 2 --layer 6 --dim 64 --dim 384 --picture grid.png

--pairs has the columns sentence1, sentence2 and score; the figure is Spearman's correlation. --retrieval is a folder in
BEIR's layout, with corpus.jsonl, queries.jsonl and qrels/test.tsv; the figure is nDCG@10.
"""


def grid_command(
    model: ModelFolder,
    pairs: Annotated[str | None, typer.Option(help="Pairs of texts with a score.")] = None,
    retrieval: Annotated[str | None, typer.Option(help="A folder in BEIR's layout.")] = None,
    layer: Annotated[list[int] | None, typer.Option(help="Of all texts; may be repeated. Or those trained.")] = None,
    dim: Annotated[list[int] | None, typer.Option(help="May be repeated. Left out, those it was trained for.")] = None,
    query_layer: Annotated[
        list[int] | None, typer.Option(help="Of queries, against each --layer of documents; may be repeated.")
    ] = None,
    picture: Annotated[str | None, typer.Option(help="A PNG to draw the grid into.")] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """What ``st-plugins grid`` does with its arguments; :data:`HELP` describes it."""
    if (pairs is None) == (retrieval is None):
        raise InputError(f"Exactly one of --pairs and --retrieval must be given, got {'both' if pairs else 'neither'}.")

    import st_plugins  # only now: --help needs none of it
    from st_plugins.commands.retrieval_sets import retrieval_evaluator
    from st_plugins.evaluation import ElasticGridEvaluator
    from st_plugins.evaluation.pictures import draw_grid

    evaluator = retrieval_evaluator(retrieval) if retrieval is not None else similarity_evaluator(str(pairs))
    grid = ElasticGridEvaluator(evaluator, layers=layer, dims=dim, query_layers=query_layer)
    scores = grid(st_plugins.load(model, device=device))
    if picture is not None:
        draw_grid(grid.points, picture, title=evaluator.name)
    if as_json:
        points = [dataclasses.asdict(point) for point in grid.points]
        typer.echo(json.dumps({"primary": grid.primary_metric, "scores": scores, "points": points}))
        return
    costs = {point.query_layer if query_layer else point.layer: point.cost for point in grid.points}
    typer.echo(f"{evaluator.primary_metric}, in percent\n\n{grid.table()}\n")
    for depth, cost in sorted(costs.items()):
        typer.echo(f"layer {depth}: {cost:.2f} of the time of the deepest")


def similarity_evaluator(file: str) -> Any:
    """An ``EmbeddingSimilarityEvaluator`` of a table with sentence1, sentence2 and score.

    Raises:
        InputError: If it is no such table.

    Example:
        >>> similarity_evaluator("sts.csv").scores
        [0.9, 0.1]
    """
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    from st_plugins.commands.text_files import numbers, read_table

    sentences = ("sentence1", "sentence2")
    table = read_table(file, [*sentences, "score"], texts=sentences)
    first, second = (list(map(str, table[name].to_pylist())) for name in sentences)
    return EmbeddingSimilarityEvaluator(
        first, second, numbers(table, "score", file), main_similarity="cosine", write_csv=False
    )
