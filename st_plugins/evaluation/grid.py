"""Any sentence-transformers evaluator, at every layer and dim."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator

from st_plugins.blocks import check_layer
from st_plugins.errors import SizeError
from st_plugins.evaluation.metric_files import add_rows
from st_plugins.evaluation.sized_model import EncodingClock, at_size
from st_plugins.first_modules import layered_module
from st_plugins.width import check_dim, embedding_width


@dataclass(frozen=True)
class GridPoint:
    """One size and how good it is.

    Args:
        query_layer: Depth of the queries.
        layer: Depth of the documents, or of all texts where the evaluator knows no queries.
        dim: Width of both.
        score: The wrapped evaluator's primary metric.
        cost: Time of encoding as a fraction of the deepest layer's: of all texts, or of the queries where these have
            layers of their own.
    """

    query_layer: int
    layer: int
    dim: int
    score: float
    cost: float


class ElasticGridEvaluator(SentenceEvaluator):
    """Runs an evaluator at every layer and dim of an elastic model, or of its export (``OnnxModule``).

    It wraps evaluators that call ``encode``, ``encode_query`` and ``encode_document``: similarity, retrieval, NanoBEIR,
    triplets, classification and the rest. Untrained sizes are evaluated too. Each layer encodes a text once, whatever
    the number of dims. It does not change the model, and its sizes do not appear in the model card; the primary size's
    score does, through the trainer.

    Args:
        evaluator: The evaluator to run.
        layers: Layers of the documents; None takes the layers the model was trained for.
        dims: None takes the dims it was trained for, and the full width.
        query_layers: Layers of the queries, each against each of ``layers``; None keeps both at one layer. For
            evaluators that tell queries from documents.
        primary_size: The size (layer, dim) whose score the trainer selects checkpoints by, with the layer on both
            sides; None takes the deepest layers and the widest dim.
        name: Prefix of the metrics and of the files.

    Raises:
        UnsupportedModelError: If the model is not elastic.
        SizeError: If a size does not exist, or ``primary_size`` is not among those evaluated.

    Example:
        >>> from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
        >>> model = st_plugins.load("minilm-elastic")
        >>> similarity = EmbeddingSimilarityEvaluator(["cat", "dog", "rain"], ["kitten", "car", "weather"], [1, 0, 0.9])
        >>> evaluator = ElasticGridEvaluator(similarity, layers=[3, 6], dims=[64, 384])
        >>> sorted(evaluator(model))
        ['layer3_dim384', 'layer3_dim64', 'layer6_dim384', 'layer6_dim64']
    """

    def __init__(
        self,
        evaluator: SentenceEvaluator,
        *,
        layers: Sequence[int] | None = None,
        dims: Sequence[int] | None = None,
        query_layers: Sequence[int] | None = None,
        primary_size: tuple[int, int] | None = None,
        name: str = "",
    ) -> None:
        super().__init__()
        self.evaluator = evaluator
        self.layers = layers
        self.dims = dims
        self.query_layers = query_layers
        self.primary_size = primary_size
        self.name = name
        self.greater_is_better = evaluator.greater_is_better
        self.points: list[GridPoint] = []

    def __call__(
        self, model: SentenceTransformer, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Evaluate every size.

        Args:
            model: Elastic.
            output_path: Folder for ``<name>_grid.csv``, to which each call adds its lines; None writes nothing.
            epoch: Written to the file.
            steps: Written to the file.

        Returns:
            dict: A score per size; ``primary_metric`` names the primary one.
        """
        layers, dims, primary = self._sizes(model)
        clock = EncodingClock()
        scores: dict[tuple[int, int, int], float] = {}
        for layer in layers:
            for query_layer in self.query_layers or [layer]:
                for dim in dims:
                    sized = at_size(model, query_layer, layer, dim, clock)
                    scores[query_layer, layer, dim] = self._primary_score(self.evaluator(sized))
        is_crossed = self.query_layers is not None
        self.points = [
            GridPoint(query_layer, layer, dim, score, clock.cost(query_layer, of_queries=is_crossed))
            for (query_layer, layer, dim), score in scores.items()
        ]
        self.primary_metric = self._key(*primary)
        metrics = {self._key(p.query_layer, p.layer, p.dim): p.score for p in self.points}
        if output_path is not None:
            file = Path(output_path) / (f"{self.name}_grid.csv" if self.name else "grid.csv")
            rows = [[epoch, steps, p.query_layer, p.layer, p.dim, p.score, round(p.cost, 4)] for p in self.points]
            add_rows(file, ["epoch", "steps", "query_layer", "layer", "dim", "score", "cost"], rows)
        return self.prefix_name_to_metrics(metrics, self.name)

    def table(self) -> str:
        """The scores of the last call in percent, one line per layer."""
        dims = sorted({point.dim for point in self.points})
        rows = sorted({(point.query_layer, point.layer) for point in self.points})
        scores = {(point.query_layer, point.layer, point.dim): point.score for point in self.points}
        title = "layer" if self.query_layers is None else "query layer, layer"
        lines = [title + "".join(f"{f'dim {dim}':>10}" for dim in dims)]
        for query_layer, layer in rows:
            label = str(layer) if self.query_layers is None else f"{query_layer}, {layer}"
            cells = (f"{100 * scores[query_layer, layer, dim]:>10.1f}" for dim in dims)
            lines.append(f"{label:>{len(title)}}" + "".join(cells))
        return "\n".join(lines)

    def _sizes(self, model: SentenceTransformer) -> tuple[list[int], list[int], tuple[int, int, int]]:
        """Layers and dims to evaluate, and the primary query layer, layer and dim."""
        first = layered_module(model, "an ElasticGridEvaluator")
        width = embedding_width(model.children())
        layers = sorted(self.layers or first.trained_layers())
        dims = sorted(self.dims or {width, *(dim for _, dim in first.sizes)})
        for layer in (*layers, *(self.query_layers or ())):
            check_layer(layer, first.depth)
        for dim in dims:
            check_dim(dim, width)
        if self.primary_size is None:
            return layers, dims, (max(self.query_layers or layers), layers[-1], dims[-1])
        layer, dim = self.primary_size
        both = [layer for layer in layers if self.query_layers is None or layer in self.query_layers]
        if layer not in both or dim not in dims:
            raise SizeError(
                f"primary_size must be one of the sizes evaluated, layers {both} (of both sides) and dims {dims}, "
                f"got {(layer, dim)}."
            )
        return layers, dims, (layer, layer, dim)

    def _primary_score(self, result: float | dict[str, float]) -> float:
        return float(result[self.evaluator.primary_metric]) if isinstance(result, dict) else float(result)

    def _key(self, query_layer: int, layer: int, dim: int) -> str:
        if self.query_layers is None:
            return f"layer{layer}_dim{dim}"
        return f"query{query_layer}_layer{layer}_dim{dim}"

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says about the evaluation."""
        return {"evaluator": type(self.evaluator).__name__, "layers": self.layers, "dims": self.dims}
