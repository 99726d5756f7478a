"""What merging keeps of two trainings, with fixed and with learned weights. A quarter of an hour on 2 idle CPU cores.

The first layers of all-MiniLM-L6-v2 are trained on questions and on captions apart, the second training on three times
the rows, and on all rows together. The weights of the learned merges come from pairs of both that no training saw.
``--quick`` is for seeing that it runs: one seed, a few steps, scores on small sets.
"""

import argparse
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from datasets import Dataset, concatenate_datasets
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers.utils import logging

from loss_scores import mean_and_spread, retrieval, same_group
from public_sets import Retrieval, captions, require_folder, retrieval_sets, training_pairs
from short_training import first_layers, train_once
from st_plugins.training import learn_merge, merge_models
from st_plugins.training.merging import METHODS
from timing import print_machine

LAYERS = 2
TRAINING_TOKENS, EVALUATION_TOKENS = 48, 128
LEARNING_RATE = 1e-4
PICTURES_TO_SCORE = 200  # the first ones; the others are for training


@dataclass(frozen=True)
class Scale:
    """How much is trained and scored."""

    seeds: int
    batch: int
    steps: int  # of the shorter training
    probes: int  # pairs of each task that decide the weights
    questions: int
    documents: int


QUICK = Scale(seeds=1, batch=16, steps=20, probes=128, questions=200, documents=600)
FULL = Scale(seeds=3, batch=32, steps=60, probes=512, questions=500, documents=5000)


def load_start() -> SentenceTransformer:
    return first_layers(LAYERS, tokens=TRAINING_TOKENS, device="cpu")


def train(rows: Dataset, batch: int, seed: int) -> SentenceTransformer:
    """From the start, once through the rows."""
    torch.manual_seed(seed)
    model = load_start()
    options = {"batch": batch, "learning_rate": LEARNING_RATE, "dataloader_pin_memory": False}
    train_once(model, MultipleNegativesRankingLoss(model), rows, seed=seed, **options)
    return model.eval()


def caption_pairs(seed: int) -> Dataset:
    """Two captions of each picture."""
    draw = random.Random(seed)
    pairs = [draw.sample(group, 2) for group in captions()[PICTURES_TO_SCORE:]]
    draw.shuffle(pairs)
    return Dataset.from_dict({"anchor": [one for one, _ in pairs], "positive": [other for _, other in pairs]})


def make_scorer(scale: Scale) -> Callable[[SentenceTransformer], dict[str, float]]:
    """nDCG@10 of both tasks, among the right documents and others."""
    whole = retrieval_sets(("squad",))["squad"]
    relevant = whole.relevant[: scale.questions]
    right = sorted({place for places in relevant for place in places})
    kept = [*right, *(place for place in range(len(whole.documents)) if place not in {*right})][: scale.documents]
    place_of = {place: index for index, place in enumerate(kept)}
    task = Retrieval(
        whole.questions[: scale.questions],
        [whole.documents[place] for place in kept],
        [{place_of[place] for place in places} for places in relevant],
    )
    pictures = captions()[: min(PICTURES_TO_SCORE, scale.questions)]

    def score(model: SentenceTransformer) -> dict[str, float]:
        model.max_seq_length = EVALUATION_TOKENS
        return {"questions": retrieval(model, task), "captions": same_group(model, pictures)}

    return score


def contenders(scale: Scale, seed: int) -> dict[str, tuple[SentenceTransformer, str]]:
    """Models by name, with what was learned about the merge."""
    start = load_start()
    questions, pictures = training_pairs(seed)["squad"], caption_pairs(seed)
    few = scale.steps * scale.batch
    rows = [
        tasks.select(range(scale.probes, scale.probes + count))
        for tasks, count in ((questions, few), (pictures, 3 * few))
    ]
    both = [train(part, scale.batch, seed) for part in rows]
    probes = concatenate_datasets([tasks.select(range(scale.probes)) for tasks in (questions, pictures)])
    found = {
        "start": (start, ""),
        "trained on questions": (both[0], ""),
        "trained on captions": (both[1], ""),
        "trained on both": (train(concatenate_datasets(rows).shuffle(seed), scale.batch, seed), ""),
    }
    loss = MultipleNegativesRankingLoss(start)
    for method in METHODS:
        found[f"`{method}`, equal weights"] = (merge_models(start, both, method=method), "")
        learned = learn_merge(start, both, probes, loss, method=method, batch_size=scale.batch, epochs=2, seed=seed)
        merged = merge_models(start, both, weights=learned.weights, scale=learned.scale, method=method)
        ratio = learned.weights[0] / learned.weights[1]
        found[f"`{method}`, learned weights"] = (merged, f"{ratio:.2f} : 1, scale {learned.scale:.2f}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, few steps, small sets")
    scale = QUICK if parser.parse_args().quick else FULL
    require_folder()
    logging.set_verbosity_error()
    print_machine("torch", "sentence-transformers", "transformers")
    score = make_scorer(scale)
    values: dict[str, list[dict[str, float]]] = {}
    notes: dict[str, list[str]] = {}
    for seed in range(scale.seeds):
        for name, (model, note) in contenders(scale, seed).items():
            values.setdefault(name, []).append(score(model))
            notes.setdefault(name, []).append(note)
            print(f"  seed {seed}, {name}: {values[name][-1]} {note}", flush=True)
    print("\nnDCG@10 in percent\n\n| | questions | captions | mean | weights, per seed |\n|---|---|---|---|---|")
    for name, found in values.items():
        columns = [[one[task] for one in found] for task in ("questions", "captions")]
        columns.append([statistics.mean(one.values()) for one in found])
        cells = " | ".join(mean_and_spread(each) for each in columns)
        print(f"| {name} | {cells} | {'; '.join(filter(None, notes[name]))} |")


if __name__ == "__main__":
    main()
