"""Each loss for one size of a model where it should help, against sentence-transformers' ranking loss and its nearest.

What chooses or changes rows (``row_experiments.py``) and what comes before pairs (``pretraining_experiments.py``) is
tried in the same way.

The first layers of all-MiniLM-L6-v2 with its words frozen, the same rows in the same order for all losses of an
experiment, one learning rate, five seeds. ``--quick`` trains two layers for 15 steps of 16 pairs, about half an
hour on 2 idle CPU cores; the full run trains all six for more. Every finished experiment is kept in ``--output``, so a
stopped run goes on where it was.
"""

import argparse
import copy
import json
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch import nn
from torch.utils.data import SequentialSampler
from transformers.utils import logging

from loss_experiments import LOSS_EXPERIMENTS, Contender, Experiment
from loss_rows import Rows, shaped
from loss_scores import mean_and_spread
from pretraining_experiments import PRETRAINING_EXPERIMENTS
from public_sets import require_folder
from row_experiments import ROW_EXPERIMENTS
from short_training import first_layers, train_once
from timing import print_machine

EXPERIMENTS = LOSS_EXPERIMENTS | ROW_EXPERIMENTS | PRETRAINING_EXPERIMENTS

TRAINING_TOKENS, EVALUATION_TOKENS = 32, 128
LEARNING_RATE = 5e-4
SEEDS = range(5)


@dataclass(frozen=True)
class Scale:
    """How much is trained."""

    name: str
    layers: int
    steps: int


QUICK, FULL = Scale("quick", layers=2, steps=15), Scale("full", layers=6, steps=200)

Scores = dict[str, list[float]]  # metric -> a value per seed


@cache
def load_start(layers: int) -> SentenceTransformer:
    model = first_layers(layers, tokens=TRAINING_TOKENS)
    model[0].model.embeddings.requires_grad_(False)  # a fraction of the time, and few texts move few words
    return model


def train(model: SentenceTransformer, loss: nn.Module, rows: Rows, contender: Contender, seed: int) -> None:
    """Once through the rows, in their order."""
    dataset, factor = shaped(rows, contender.columns)
    collator = contender.collator(model) if contender.collator else None
    options = {"batch": contender.batch * factor, "collator": collator, "batch_sampler": in_order}
    train_once(model, loss, dataset, learning_rate=LEARNING_RATE, seed=seed, **options)


def in_order(
    dataset: Dataset,
    batch_size: int,
    drop_last: bool,
    valid_label_columns: list[str] | None = None,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> DefaultBatchSampler:
    """Batches as the rows lie: an experiment decides what meets in one."""
    return DefaultBatchSampler(
        SequentialSampler(dataset),
        batch_size=batch_size,
        drop_last=drop_last,
        valid_label_columns=valid_label_columns,
        generator=generator,
        seed=seed,
    )


def run(experiment: Experiment, scale: Scale) -> dict[str, Scores]:
    """All losses of an experiment with all seeds."""
    untrained = copy.deepcopy(load_start(scale.layers))
    untrained.max_seq_length = EVALUATION_TOKENS
    results = {"untrained": _lists([experiment.evaluation()(untrained)])}
    for name, contender in experiment.contenders.items():
        evaluate = experiment.evaluation()
        values = []
        for seed in SEEDS:
            rows = contender.prepare(experiment.rows(random.Random(seed), scale.steps))
            torch.manual_seed(seed)
            model = copy.deepcopy(load_start(scale.layers))
            train(model, contender.loss(model), rows, contender, seed)
            model.max_seq_length = EVALUATION_TOKENS
            values.append(evaluate(model))
        results[name] = _lists(values)
        print(f"  {name}: {_cells(results[name], list(results[name]))}", flush=True)
    return results


def _lists(values: list[dict[str, float]]) -> Scores:
    metrics = dict.fromkeys(metric for value in values for metric in value)
    return {metric: [value[metric] for value in values if metric in value] for metric in metrics}


def _cells(scores: Scores, metrics: list[str]) -> str:
    return " | ".join(mean_and_spread(scores.get(metric, [])) for metric in metrics)


def print_table(experiment: Experiment, results: dict[str, Scores]) -> None:
    metrics = list(dict.fromkeys(metric for scores in results.values() for metric in scores))
    print(f"\n{experiment.title}\n\n| | {' | '.join(metrics)} |\n{'|---' * (1 + len(metrics))}|")
    for name, scores in results.items():
        print(f"| {name} | {_cells(scores, metrics)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two layers, few steps")
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, metavar="EXPERIMENT", help=", ".join(EXPERIMENTS))
    parser.add_argument("--output", type=Path, help="folder for the scores; default: losses[_quick]")
    arguments = parser.parse_args()
    require_folder()
    logging.set_verbosity_error()
    scale = QUICK if arguments.quick else FULL
    folder = arguments.output or Path("losses" + ("_quick" if arguments.quick else ""))
    folder.mkdir(parents=True, exist_ok=True)
    print_machine("torch", "sentence-transformers", "transformers")
    for name in arguments.only or EXPERIMENTS:
        kept = folder / f"{name}.json"
        if not kept.exists():
            print(f"\n{name}", flush=True)
            unfinished = folder / f"unfinished {name}.json"
            unfinished.write_text(json.dumps(run(EXPERIMENTS[name], scale)), encoding="utf-8")
            unfinished.rename(kept)
        print_table(EXPERIMENTS[name], json.loads(kept.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
