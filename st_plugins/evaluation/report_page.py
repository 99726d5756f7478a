"""One page about a model: its sizes, exits and exports, in a file that needs nothing else. Measures nothing itself."""

import json
import math
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer

import st_plugins
from st_plugins.errors import InputError
from st_plugins.evaluation.grid import GridPoint
from st_plugins.exit_policies import ExitPolicy
from st_plugins.exits.curves import ExitCurves
from st_plugins.fingerprints import fingerprint
from st_plugins.model_files import read_json
from st_plugins.modules import ElasticTransformer
from st_plugins.whole_writes import whole_file

_TEMPLATE = Path(__file__).with_name("report_page.html")
_CURVES = ("risk", "dynamic", "static", "oracle")


def write_report_page(
    model: SentenceTransformer,
    file: str | Path,
    *,
    name: str,
    points: Sequence[GridPoint] = (),
    metric: str = "",
    curves: ExitCurves | None = None,
    export: str | Path | None = None,
) -> None:
    """Write a page with a heat map of sizes, quality against cost, exits, ONNX graphs, and the size of an index.

    It is one HTML file of some 20 kB that works offline: figures show under the pointer, and a slider marks the
    cheapest size that keeps a share of the best score.

    Args:
        model: Whose sizes and exit policies are shown.
        file: An earlier one is replaced when the new one is complete.
        name: Of the model, at the top.
        points: From ``ElasticGridEvaluator.points``. With query layers, those against the deepest documents are shown;
            a score that is no number, as a correlation of equal values, is left out.
        metric: What ``points`` measure.
        curves: From :func:`st_plugins.exits.curves.exit_curves`.
        export: Folder of an export of the model, whose ``report.json`` is shown.

    Raises:
        InputError: If ``export`` has no report.

    Example:
        >>> model = st_plugins.load("minilm-elastic")
        >>> points = [GridPoint(3, 3, 128, 0.8, 0.5), GridPoint(6, 6, 384, 0.9, 1.0)]
        >>> write_report_page(model, "report.html", name="minilm-elastic", points=points, metric="nDCG@10")
        >>> "minilm-elastic" in Path("report.html").read_text()
        True
    """
    first = model[0]
    is_elastic = isinstance(first, ElasticTransformer)
    is_crossed = any(point.query_layer != point.layer for point in points)
    deepest = max((point.layer for point in points), default=0)
    facts = {
        "name": name,
        "summary": _summary(model),
        "made": f"st-plugins {st_plugins.__version__}, sentence-transformers {version('sentence-transformers')}, "
        f"{date.today().isoformat()}. Fingerprint {fingerprint(model)}",
        "width": model.get_embedding_dimension(),
        "metric": metric,
        "is_crossed": is_crossed,
        "row_name": "query layer" if is_crossed else "layer",
        "points": [
            {"row": point.query_layer, "dim": point.dim, "score": point.score, "cost": point.cost}
            for point in points
            if (not is_crossed or point.layer == deepest) and math.isfinite(point.score)
        ],
        "policies": [_policy(policy) for policy in first.exit_policies.values()] if is_elastic else [],
        "curves": None if curves is None else {kind: getattr(curves, kind) for kind in _CURVES},
        "graphs": [] if export is None else _graphs(Path(export)),
    }
    # A "</script>" in a name must not end the script.
    content = json.dumps(facts, allow_nan=False).replace("<", "\\u003c")
    with whole_file(file) as unfinished:
        unfinished.write_text(_TEMPLATE.read_text(encoding="utf-8").replace("{facts}", content), encoding="utf-8")


def _summary(model: SentenceTransformer) -> str:
    modules = ", ".join(type(module).__name__ for module in model)
    depth = f"{model[0].depth} layers, " if isinstance(model[0], ElasticTransformer) else ""
    return f"{depth}{model.get_embedding_dimension()} dimensions, {model.max_seq_length} tokens: {modules}"


def _policy(policy: ExitPolicy) -> dict[str, Any]:
    proof = policy.certificate
    facts: dict[str, Any] = {"name": policy.name, "layers": policy.layers, "risk": None}
    if proof is None:
        return facts
    names = ("risk", "alpha", "delta", "n", "mean_loss", "expected_layers", "exit_rates")
    return facts | {name: getattr(proof, name) for name in names}


def _graphs(folder: Path) -> list[dict[str, Any]]:
    report = read_json(folder / "report.json")
    if "graphs" not in report:
        raise InputError(f"{folder} must be an export with report.json, and has none. Export the model again.")
    shown = ("file", "precision", "bytes", "max_difference", "cosine_mean", "cosine_min", "speed")
    return [{**{name: graph[name] for name in shown}, "size": _size(graph)} for graph in report["graphs"]]


def _size(graph: dict[str, Any]) -> str:
    layers = graph["layers"] if "layers" in graph else [graph["layer"]]
    return f"{'-'.join(map(str, dict.fromkeys((layers[0], layers[-1]))))}x{graph['dim']}"
