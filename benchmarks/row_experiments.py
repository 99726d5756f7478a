"""What each function that chooses or changes training rows is for; ``losses.py`` runs these as it runs the losses."""

import random
from collections.abc import Callable

from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import mine_hard_negatives

from loss_experiments import (
    DOCUMENTS,
    PICTURES_TO_SCORE,
    RANKING,
    Contender,
    Experiment,
    captions_and_similarity,
    full_model,
    questions,
)
from loss_rows import Rows, answered_questions, apart_captions, noisy_captions, these_again, with_itself
from loss_scores import embed, length_tie, retrieval
from public_sets import Retrieval, captions, retrieval_sets, training_pairs
from size_scores import ndcg_of_rows
from st_plugins.losses import MomentumQueueLoss
from st_plugins.training import WordRepetitionCollator, keep_scored, mine_modality_negatives

TRIPLETS, QUADRUPLES = ("anchor", "positive", "negative"), ("anchor", "positive", "negative_1", "negative_2")
OTHER_PAIRS = 1000  # whose questions and answers fill the corpus that negatives are mined from
Mine = Callable[[Dataset, list[str], list[str]], Dataset]  # of pairs, questions and answers


def captions_similarity_and_length(model: SentenceTransformer) -> dict[str, float]:
    tie = length_tie(model, captions()[: 5 * PICTURES_TO_SCORE])
    return captions_and_similarity(model) | {"length and cosine": tie}


def scored(rows: Rows) -> list[int]:
    """Where ``keep_scored`` keeps a row, by the cosines of the whole model."""
    anchors, positives, negatives = (embed(full_model(), rows[column]) for column in TRIPLETS)
    dataset = Dataset.from_dict(
        {
            "row": list(range(len(anchors))),
            "of positive": (anchors * positives).sum(1).tolist(),
            "of negative": (anchors * negatives).sum(1).tolist(),
        }
    )
    kept = keep_scored(dataset, scores=("of positive", "of negative"), min_pos=0.4, max_neg=0.4, min_gap=0.1)
    return kept["row"][:]


def kept_rows(rows: Rows) -> Rows:
    return these_again(rows, scored(rows))


def as_many_at_random(rows: Rows) -> Rows:
    return these_again(rows, random.Random(0).sample(range(len(rows["anchor"])), len(scored(rows))))


def clean_rows(rows: Rows) -> Rows:
    return these_again(rows, [i for i, is_clean in enumerate(rows["is_clean"]) if is_clean])


def with_negatives(mine: Mine) -> Callable[[Rows], Rows]:
    """Rows with two negatives each, out of their answers and other questions and answers; in their order again."""

    def prepare(rows: Rows) -> Rows:
        others = training_pairs(0)["squad"].to_dict()
        taken = set(rows["anchor"])
        chosen = [i for i, question in enumerate(others["anchor"]) if question not in taken][:OTHER_PAIRS]
        asked = list(dict.fromkeys(others["anchor"][i] for i in chosen))
        answers = list(dict.fromkeys(rows["positive"] + [others["positive"][i] for i in chosen]))
        mined = mine(Dataset.from_dict(rows), asked, answers).to_dict()
        return {
            column: [values[i % len(values)] for i in range(len(rows["anchor"]))] for column, values in mined.items()
        }

    return prepare


def nearest(pairs: Dataset, corpus: list[str]) -> Dataset:
    return mine_hard_negatives(
        pairs, full_model(), corpus=corpus, num_negatives=2, range_max=50, output_format="n-tuple", verbose=False
    )


def by_kind(pairs: Dataset, asked: list[str], answers: list[str]) -> Dataset:
    kinds = ["question"] * len(asked) + ["answer"] * len(answers)
    return mine_modality_negatives(pairs, full_model(), asked + answers, kinds)


def among_questions(model: SentenceTransformer) -> dict[str, float]:
    """Answers to be found among answers, and among answers and the other questions about them."""
    task, whole = questions(), retrieval_sets(("squad",))["squad"]
    asked = {*task.questions}
    others = [
        question
        for question, found in zip(whole.questions, whole.relevant, strict=True)
        if max(found) < DOCUMENTS and question not in asked
    ]
    mixed = Retrieval(task.questions, task.documents + others, task.relevant)
    cosines = embed(model, mixed.questions) @ embed(model, mixed.documents).T
    best = cosines.topk(10).indices
    return {
        "answers": retrieval(model, task),
        "answers and questions": ndcg_of_rows(best.tolist(), mixed.relevant),
        "questions among ten": 100 * float((best >= len(task.documents)).float().mean()),
    }


NEAREST = with_negatives(lambda pairs, asked, answers: nearest(pairs, asked + answers))
NEAREST_ANSWERS = with_negatives(lambda pairs, asked, answers: nearest(pairs, answers))
ROW_EXPERIMENTS = {
    "word repetition": Experiment(
        "Captions alone, told apart from themselves by dropout or by repeated words too; nDCG@10 of finding the "
        "captions of one's picture among those of 60, Spearman on STSb, and Spearman of likeness in length with the "
        "cosine of captions of different pictures.",
        apart_captions,
        {
            "`MultipleNegativesRankingLoss`, dropout (SimCSE)": Contender(
                MultipleNegativesRankingLoss, prepare=with_itself
            ),
            "..., `WordRepetitionCollator`": Contender(
                MultipleNegativesRankingLoss, ("anchor",), collator=WordRepetitionCollator
            ),
            "`MomentumQueueLoss`, 40 texts, `WordRepetitionCollator` (ESimCSE)": Contender(
                lambda model: MomentumQueueLoss(model, queue_size=40, column=0),
                ("anchor",),
                collator=WordRepetitionCollator,
            ),
        },
        lambda: captions_similarity_and_length,
    ),
    "scored rows": Experiment(
        "Captions with made noise: of a third of the rows the positive is of another picture, of a third the negative "
        "of the same one; all losses are the ranking loss, all trainings of one length. Scores are cosines of the "
        "whole model; nDCG@10 of finding the captions of one's picture among those of 60, Spearman on STSb.",
        noisy_captions,
        {
            "all rows": Contender(MultipleNegativesRankingLoss, TRIPLETS),
            "`keep_scored`, min_pos 0.4, max_neg 0.4, min_gap 0.1": Contender(
                MultipleNegativesRankingLoss, TRIPLETS, kept_rows
            ),
            "as many rows at random": Contender(MultipleNegativesRankingLoss, TRIPLETS, as_many_at_random),
            "the rows without noise": Contender(MultipleNegativesRankingLoss, TRIPLETS, clean_rows),
        },
        lambda: captions_and_similarity,
    ),
    "kinds of negatives": Experiment(
        "Questions of SQuAD with their answers, mined among answers and other questions as two modalities; nDCG@10 on "
        "other articles, with answers alone to find and with other questions about them in between, and the share of "
        "these among the first ten.",
        answered_questions,
        {
            "no negatives": RANKING,
            "`mine_hard_negatives`, the nearest of both kinds": Contender(
                MultipleNegativesRankingLoss, QUADRUPLES, NEAREST
            ),
            "..., of answers alone": Contender(MultipleNegativesRankingLoss, QUADRUPLES, NEAREST_ANSWERS),
            "`mine_modality_negatives`": Contender(MultipleNegativesRankingLoss, QUADRUPLES, with_negatives(by_kind)),
        },
        lambda: among_questions,
    ),
}
