"""Queries of one version of a model on documents of another: who can search whose index."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator

from st_plugins.errors import InputError
from st_plugins.evaluation.sized_model import question, without_card
from st_plugins.views import shallow_copy


class CompatibilityEvaluator(SentenceEvaluator):
    """Runs a retrieval evaluator with the queries of every version of a model on the documents of every version.

    ``M[i][j]`` is the score of queries by version i on documents by version j. A later version i is compatible with an
    earlier j if the old index answers it better than it answered its own queries::

        compatible(i, j) = M[i][j] > M[j][j]            AC = share of the pairs i > j that are compatible

    and it keeps ``M[i][j] / M[j][j]`` of what the old model found, which is what an adapter is measured by
    (:func:`st_plugins.adapt_to_index`). Where widths differ nothing can be compared, and M is NaN: not compatible.

    Args:
        evaluator: One that calls ``encode_query`` and ``encode_document``, like ``InformationRetrievalEvaluator``.
        versions: From the oldest on; the model that is evaluated comes last.
        name: Prefix of the metrics.

    Raises:
        InputError: If there is no earlier version.

    References:
        Average compatibility: Biondi et al., *CL2R*, https://arxiv.org/abs/2211.09032. The criterion: Shen et al.,
        https://arxiv.org/abs/2003.11942.

    Example:
        >>> from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
        >>> retrieval = InformationRetrievalEvaluator({"q": "a cat"}, {"1": "a kitten", "2": "rain"}, {"q": {"1"}})
        >>> model = st_plugins.load("minilm-elastic")
        >>> evaluator = CompatibilityEvaluator(retrieval, [st_plugins.bake(model, dim=64)])
        >>> evaluator(model)["compatibility"]
        0.0
        >>> print(evaluator.table())
        queries of   documents of 0  documents of 1
        0                     100.0               -
        1                         -           100.0
    """

    def __init__(
        self, evaluator: SentenceEvaluator, versions: Sequence[SentenceTransformer], *, name: str = ""
    ) -> None:
        super().__init__()
        if not versions:
            raise InputError("versions must hold at least one earlier version of the model, got none.")
        self.evaluator = evaluator
        self.versions = list(versions)
        self.name = name
        self.greater_is_better = True
        self.primary_metric = "compatibility"
        self.matrix = np.zeros((0, 0))

    def __call__(
        self, model: SentenceTransformer, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Evaluate every pair of versions.

        Args:
            model: The newest version.
            output_path: As the host passes it; nothing is written.
            epoch: As the host passes it.
            steps: As the host passes it.

        Returns:
            dict: ``query{i}_document{j}`` for all that compare, ``compatibility`` (AC), and ``kept``: the newest
            version's queries on the oldest one's documents, in times of the oldest one's own; NaN where they differ in
            width.
        """
        versions = [*self.versions, model]
        memory: dict[Any, Any] = {}
        self.matrix = np.full((len(versions), len(versions)), np.nan)
        for i, asking in enumerate(versions):
            for j, indexed in enumerate(versions):
                if asking.get_embedding_dimension() == indexed.get_embedding_dimension():
                    self.matrix[i, j] = self._score(_pair(asking, indexed, memory))
        metrics = {
            f"query{i}_document{j}": float(score)
            for (i, j), score in np.ndenumerate(self.matrix)
            if not np.isnan(score)
        }
        metrics["compatibility"] = average_compatibility(self.matrix)
        metrics["kept"] = float(self.matrix[-1, 0] / self.matrix[0, 0]) if self.matrix[0, 0] else float("nan")
        self.primary_metric = "compatibility"
        return self.prefix_name_to_metrics(metrics, self.name)

    def table(self) -> str:
        """M of the last call in percent, one line per version that asks."""
        count = len(self.matrix)
        title = "queries of "
        lines = [title + "".join(f"{f'documents of {j}':>16}" for j in range(count))]
        for i, row in enumerate(self.matrix):
            cells = ("-" if np.isnan(score) else f"{100 * score:.1f}" for score in row)
            lines.append(f"{i:<{len(title)}}" + "".join(f"{cell:>16}" for cell in cells))
        return "\n".join(lines)

    def _score(self, model: SentenceTransformer) -> float:
        result = self.evaluator(model)
        return float(result[self.evaluator.primary_metric]) if isinstance(result, dict) else float(result)

    def get_config_dict(self) -> dict[str, Any]:
        """What the model card says about the evaluation."""
        return {"evaluator": type(self.evaluator).__name__, "versions": len(self.versions)}


def average_compatibility(matrix: np.ndarray) -> float:
    """AC of M (V, V), oldest version first: the share of pairs i > j with M[i][j] > M[j][j]; NaN is not compatible.

    Example:
        >>> average_compatibility(np.array([[0.5, 0.0, 0.0], [0.6, 0.7, 0.0], [0.4, 0.8, 0.9]]))
        0.6666666666666666
    """
    pairs = [(i, j) for i in range(len(matrix)) for j in range(i)]
    return sum(bool(matrix[i, j] > matrix[j, j]) for i, j in pairs) / len(pairs)


def _pair(asking: SentenceTransformer, indexed: SentenceTransformer, memory: dict[Any, Any]) -> SentenceTransformer:
    """A copy of one model whose documents come from another; each model embeds a text once."""
    pair = shallow_copy(asking)

    def remembered(model: SentenceTransformer, method: str) -> Any:
        def encode(inputs: Any, **arguments: Any) -> Any:  # the host's own arguments
            key = (id(model), method, question(inputs, arguments))
            if key not in memory:
                memory[key] = getattr(model, method)(inputs, **arguments)
            return memory[key]

        return encode

    pair.__dict__["encode_query"] = remembered(asking, "encode_query")
    pair.__dict__["encode_document"] = remembered(indexed, "encode_document")
    return without_card(pair)
