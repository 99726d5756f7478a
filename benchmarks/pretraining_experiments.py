"""What masked autoencoding is for, before a training on pairs; ``losses.py`` runs it as it runs the losses."""

import random

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import nn

import st_plugins
from loss_experiments import BuildLoss, Contender, Experiment, captions_and_similarity
from loss_rows import BATCH, apart_captions, pictures_to_train
from st_plugins.losses import MaskedAutoencoderLoss
from st_plugins.training import NestedMaskingCollator

STEPS, LEARNING_RATE = 30, 5e-4


def after(bow_weight: float | None) -> BuildLoss:
    """The ranking loss of a model whose blocks began anew and then saw masked texts; None: saw none."""

    def build(model: SentenceTransformer) -> nn.Module:
        for module in model[0].model.encoder.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        if bow_weight is not None:
            pretrain(model, bow_weight)
        return MultipleNegativesRankingLoss(model)

    return build


def pretrain(model: SentenceTransformer, bow_weight: float) -> None:
    """Masked autoencoding at full size, on captions of other pictures than those for scores."""
    elastic = st_plugins.elastic(model).train()  # shares its weights
    loss = MaskedAutoencoderLoss(elastic, sizes=[(elastic[0].depth, 384)], bow_weight=bow_weight)
    collator = NestedMaskingCollator(elastic)
    texts = [text for group in pictures_to_train(1) for text in group]
    drawn = random.Random(torch.initial_seed()).sample(texts, STEPS * BATCH)
    trained = [parameter for parameter in loss.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE)
    for start in range(0, len(drawn), BATCH):
        batch = collator([{"text": text} for text in drawn[start : start + BATCH]])
        optimizer.zero_grad()
        loss([{name.removeprefix("text_"): value for name, value in batch.items()}]).backward()
        optimizer.step()


PRETRAINING_EXPERIMENTS = {
    "masked words first": Experiment(
        f"Blocks of random numbers behind the words of all-MiniLM-L6-v2, {STEPS} steps of 16 masked captions, then "
        "pairs of captions; nDCG@10 of finding the captions of one's picture among those of 60, Spearman on STSb. The "
        "untrained model has its blocks still.",
        apart_captions,
        {
            "pairs alone": Contender(after(None)),
            "`MaskedAutoencoderLoss` first": Contender(after(0.0)),
            "..., bow_weight 0.1": Contender(after(0.1)),
        },
        lambda: captions_and_similarity,
    ),
}
