"""Texts that leave where they may, against layers that are the same for all and against an oracle.

The model is all-MiniLM-L6-v2, trained as ``elastic_training.py`` trains it by ``--method``, and kept in ``--output``;
with ``--aligned`` its shallow layers are mapped to the full depth afterwards. ``--quick`` trains for minutes on 2 CPU
cores; the tables take about twenty more. A GPU is used where there is one. The sets are those in ``ST_PLUGINS_DATA``.
"""

import argparse
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from transformers.utils import logging

import st_plugins
from elastic_training import EVALUATION_TOKENS, SEED, add_scale, alignment_texts, methods, trained_model
from exit_promises import Certified, violation_table
from exit_quality import Task, least_layers_row, quality_table
from exit_timing import encode_table, forward_table
from public_sets import Retrieval, require_folder, retrieval_sets, similarity_sets, training_pairs
from size_scores import ndcg_at_10, spearman
from st_plugins.exits import Gate
from st_plugins.exits.traces import trace
from st_plugins.training import train_gates
from timing import print_machine

GATE_TEXTS = 200  # of each source and side
CALIBRATION_TEXTS = 1000
TABLES = ("quality", "certified", "violations", "time")


def trained_gate(model: SentenceTransformer) -> Gate:
    """Heads from texts the model was trained on: no text below has been seen by either."""
    texts = []
    for pairs in training_pairs(SEED).values():
        texts += pairs["anchor"][:GATE_TEXTS] + pairs["positive"][:GATE_TEXTS]
    return train_gates(model, texts)


def tasks(model: SentenceTransformer, squad: Retrieval) -> list[Task]:
    """What is measured: the texts that may leave, at every exit, and the score of the embeddings they leave with."""
    first, second, scores = similarity_sets()["stsb"]
    pairs = trace(model, first + second)
    questions = trace(model, squad.questions)
    both = trace(model, squad.questions + squad.documents)
    documents = both.embeddings[-1, len(squad.questions) :]
    width = documents.shape[1]

    def similarity(embeddings: torch.Tensor) -> float:
        return spearman(embeddings[: len(first)], embeddings[len(first) :], scores, width)

    def both_leave(embeddings: torch.Tensor) -> float:
        found, searched = embeddings[: len(squad.questions)], embeddings[len(squad.questions) :]
        return ndcg_at_10(found, searched, squad.relevant, width)

    def questions_leave(embeddings: torch.Tensor) -> float:
        return ndcg_at_10(embeddings, documents, squad.relevant, width)

    return [
        Task("STSb, Spearman's correlation (%)", pairs, similarity),
        Task("SQuAD, nDCG@10 (%), questions and documents leave", both, both_leave),
        Task("SQuAD, nDCG@10 (%), only questions leave", questions, questions_leave),
    ]


def shares(squad: Retrieval) -> tuple[list[str], Retrieval]:
    """Questions to calibrate with, and the others: drawn at random, each text once."""
    order = torch.randperm(len(squad.questions), generator=torch.Generator().manual_seed(SEED)).tolist()
    chosen = [squad.questions[i] for i in order[:CALIBRATION_TEXTS]]
    rest = [i for i in order[CALIBRATION_TEXTS:] if squad.questions[i] not in set(chosen)]
    return chosen, Retrieval([squad.questions[i] for i in rest], squad.documents, [squad.relevant[i] for i in rest])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_scale(parser)
    parser.add_argument("--method", choices=methods(), default="ElasticLoss, teacher", metavar="METHOD")
    parser.add_argument("--aligned", action="store_true", help="fit a linear map to every layer first")
    parser.add_argument("--output", type=Path, help="folder for the model; default: elastic_training[_SCALE]")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=TABLES, help="some of the tables")
    arguments = parser.parse_args()
    require_folder()
    logging.set_verbosity_error()
    scale = arguments.scale
    folder = arguments.output or scale.folder
    folder.mkdir(parents=True, exist_ok=True)
    print_machine("torch", "sentence-transformers", "transformers")
    model = trained_model(arguments.method, scale, folder)[0].eval()
    model.max_seq_length = EVALUATION_TOKENS
    if arguments.aligned:
        model = st_plugins.align_layers(model, alignment_texts(scale))
    gate = trained_gate(model)
    squad, medline = retrieval_sets(("squad", "medline")).values()
    calibration, held_out = shares(squad)
    if "quality" in arguments.only:
        for task in tasks(model, squad):
            print(quality_table(task, gate), flush=True)
            print(least_layers_row(task, gate), flush=True)
    if "certified" in arguments.only:
        print(Certified(model, calibration, held_out).table(gate), flush=True)
    if "violations" in arguments.only:
        print(violation_table(model, gate, squad), flush=True)
    if "time" in arguments.only:
        texts = {"short (SQuAD questions)": squad.questions, "long (Medline abstracts)": medline.documents}
        for name, some in texts.items():
            print(encode_table(name, model, gate, some), flush=True)
            print(forward_table(name, model, some), flush=True)


if __name__ == "__main__":
    main()
