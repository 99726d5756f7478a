"""Whether the vectors are right: the sections of ``gpu.py`` that must hold before speed means anything."""

from typing import Any

import numpy as np

from gpu_setup import EXIT, Setup
from st_plugins.exits import encode_with_exits

PARITY = 1e-4  # largest difference of any coordinate from torch in float32, both without TF32
FP16_COSINE = 0.999


def parity(setup: Setup) -> dict[str, float]:
    """Float32 against torch, in batches of every size."""
    found = {}
    for name, texts in setup.workloads.items():
        texts = texts[:512]
        expected = setup.model.encode(texts, batch_size=64)
        for budget in (512, 16_384):
            vectors = setup.encoder(token_budget=budget).encode(texts)
            found[f"{name}, {budget} tokens"] = difference = float(np.abs(vectors - expected).max())
            print(f"{name}, {budget} tokens per batch: largest difference from torch {difference:.1e}")
    if max(found.values()) > PARITY:
        raise AssertionError(f"differs from torch by {max(found.values()):.1e}, allowed {PARITY:.0e}")
    return found


def fidelity(setup: Setup) -> dict[str, Any]:
    """How close the faster variants come to float32."""
    texts = setup.workloads["mixed"][:1024]
    expected = setup.model.encode(texts)
    encoders = {
        "ours, fp16": lambda: setup.encoder(precision="fp16"),
        "optimizer, fp16": lambda: setup.encoder(setup.optimized),
    }
    found = {}
    for name, make in encoders.items():
        vectors = make().encode(texts)
        cosines = (vectors * expected).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(expected, axis=1)
        found[name] = facts = {
            "mean cosine": float(cosines.mean()),
            "smallest cosine": float(cosines.min()),
            "overlap of the nearest 10": overlap(vectors, expected),
        }
        print(name, {key: round(value, 6) for key, value in facts.items()})
    low = {name: facts["smallest cosine"] for name, facts in found.items() if facts["smallest cosine"] < FP16_COSINE}
    if low:
        raise AssertionError(f"cosines below {FP16_COSINE}: {low}")
    return found


def overlap(vectors: np.ndarray, expected: np.ndarray, k: int = 10) -> float:
    """Mean share of a text's k nearest others that both find."""
    nearest = []
    for each in (vectors, expected):
        scores = each @ each.T
        np.fill_diagonal(scores, -np.inf)
        nearest.append(np.argsort(-scores, axis=1)[:, :k])
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(*nearest, strict=True)]))


def exits(setup: Setup) -> dict[str, Any]:
    """The exit graph against the stages that torch runs."""
    texts = setup.workloads["mixed"][:1024]
    vectors, layers = setup.encoder().encode_with_exits(texts, exit=EXIT)
    expected, expected_layers = encode_with_exits(setup.model, texts, exit=EXIT)
    is_equal = layers == expected_layers
    facts = {
        "texts": len(texts),
        "left elsewhere": int((~is_equal).sum()),
        "largest difference": float(np.abs(vectors - expected)[is_equal].max()),
        "leave at": dict(zip(*[values.tolist() for values in np.unique(layers, return_counts=True)], strict=True)),
    }
    print(facts)
    if facts["left elsewhere"] > len(texts) // 200 or facts["largest difference"] > PARITY:
        raise AssertionError(f"the exit graph and torch disagree: {facts}")
    return facts
