"""What a saved model's card says of us: how to install and load it, its sizes, and what they are worth."""

import json
from collections.abc import Sequence
from pathlib import Path

from sentence_transformers import SentenceTransformer

import st_plugins
from st_plugins.card_sections import write_section
from st_plugins.evaluation.grid import GridPoint
from st_plugins.exits.policy_tables import write_policy_table
from st_plugins.modules import ElasticTransformer
from st_plugins.whole_writes import whole_file

_SECTION = """\
## Usage with st-plugins

```bash
pip install "{requirement}"
```

```python
import st_plugins

model = st_plugins.load("{name}")
vectors = model.encode(["A text"]{arguments})
```

`SentenceTransformer("{name}", trust_remote_code=True)` gives the same vectors, with st-plugins installed. The flag is
asked for because `modules.json` names classes of another package, st-plugins: {classes}.
Nothing in this folder is run, and `st_plugins.load` does not need the flag.
"""


def write_model_card(
    model: SentenceTransformer, folder: str | Path, *, points: Sequence[GridPoint] = (), metric: str = ""
) -> None:
    """Put how to use it, its sizes and its exit policies into the card of a saved model, and what it needs beside it.

    ``config_sentence_transformers.json`` gets a line ``"requirements"``, which other loaders leave alone.

    Args:
        model: The model that was saved. One of sentence-transformers' own modules only gets nothing: it needs nothing.
        folder: Its folder; call this after every ``save_pretrained``, which writes the card anew.
        points: From ``ElasticGridEvaluator.points``, both sides at one layer; their scores go into the table of sizes.
        metric: What they measure.

    Raises:
        InputError: If the folder has no ``README.md``.

    Example:
        >>> model = st_plugins.load("minilm-elastic")
        >>> model.save_pretrained("with-card")
        >>> write_model_card(model, "with-card", points=[GridPoint(3, 3, 128, 0.82, 0.5)], metric="Spearman")
        >>> "| 3 | 128 | 82.0 | 0.50 |" in Path("with-card/README.md").read_text()
        True
    """
    ours = [type(module).__name__ for module in model if type(module).__module__.startswith("st_plugins.")]
    if not ours:
        return
    requirement = f"st-plugins>={st_plugins.__version__}"
    is_elastic = isinstance(model[0], ElasticTransformer)
    text = _SECTION.format(
        requirement=requirement,
        name=Path(folder).resolve().name,
        arguments=_arguments(model) if is_elastic else "",
        classes=", ".join(f"`{name}`" for name in dict.fromkeys(ours)),
    )
    write_section(folder, "st-plugins", text + (_sizes(model, points, metric) if is_elastic else ""))
    if is_elastic:
        write_policy_table(model, folder)
    _stamp(Path(folder) / "config_sentence_transformers.json", requirement)


def _arguments(model: SentenceTransformer) -> str:
    """Those of a call at the smallest size, if there is one."""
    if not model[0].sizes:
        return ""
    layer, dim = min(map(tuple, model[0].sizes))
    return f", layer={layer}" + (f", truncate_dim={dim}" if dim < model.get_embedding_dimension() else "")


def _sizes(model: SentenceTransformer, points: Sequence[GridPoint], metric: str) -> str:
    """A table of the trained sizes and those measured."""
    found = {(point.layer, point.dim): point for point in points if point.layer == point.query_layer}
    sizes = sorted({*found, *(tuple(size) for size in model[0].sizes)})
    if not sizes:
        return ""
    if not found:
        return "\n".join(["\n| layer | dim |", "|---|---|", *(f"| {layer} | {dim} |" for layer, dim in sizes), ""])
    rows = [f"\n| layer | dim | {metric} (%) | time of the deepest |", "|---|---|---|---|"]
    for layer, dim in sizes:
        point = found.get((layer, dim))
        figures = "| |" if point is None else f"{100 * point.score:.1f} | {point.cost:.2f} |"
        rows.append(f"| {layer} | {dim} | {figures}")
    return "\n".join(rows) + "\n"


def _stamp(file: Path, requirement: str) -> None:
    settings = json.loads(file.read_text(encoding="utf-8"))
    with whole_file(file) as unfinished:
        unfinished.write_text(json.dumps({**settings, "requirements": [requirement]}, indent=2), encoding="utf-8")
