"""How much faster small sizes are than the base model: same texts, interleaved, medians."""

import logging
import statistics
import time
from collections.abc import Callable

from sentence_transformers import SentenceTransformer
from tqdm import tqdm

from st_plugins_export import OnnxEncoder

_ROUNDS = 5


def speed_ratios(
    base: SentenceTransformer,
    model: SentenceTransformer,
    encoder: OnnxEncoder,
    texts: list[str],
    sizes: list[tuple[int, int]],
) -> dict[tuple[int, int], tuple[float, float | None]]:
    """For each size, how many times faster than the base model it is: with torch, and with ONNX if it was exported."""
    logging.getLogger("st_plugins_export").setLevel(logging.ERROR)  # it said in step 5 that long texts are cut
    runs: dict[tuple[str, tuple[int, int]], Callable[[], object]] = {("base", (0, 0)): lambda: base.encode(texts)}
    for layer, dim in sizes:
        runs["torch", (layer, dim)] = lambda layer=layer, dim=dim: model.encode(texts, layer=layer, truncate_dim=dim)
        if (layer, dim) in encoder.sizes:
            runs["onnx", (layer, dim)] = lambda layer=layer, dim=dim: encoder.encode(
                texts, layer=layer, truncate_dim=dim
            )
    seconds: dict[tuple[str, tuple[int, int]], list[float]] = {name: [] for name in runs}
    for _ in tqdm(range(_ROUNDS), desc="timing, interleaved", unit="round"):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    # Round by round, so that another program slowing one round down slows both sides of its ratio.
    ratio = {
        name: statistics.median(base / own for base, own in zip(seconds["base", (0, 0)], values, strict=True))
        for name, values in seconds.items()
    }
    return {size: (ratio["torch", size], ratio.get(("onnx", size))) for size in sizes}
