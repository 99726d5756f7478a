"""The rows of the losses' experiments, batch after batch in the order of training."""

import random
from collections.abc import Callable
from functools import cache

from datasets import Dataset
from torch import Tensor

from public_sets import captions, training_pairs

BATCH = 16
FEW_PAIRS = 128
PICTURES_TO_SCORE = 60  # the first ones; the others are for training

Rows = dict[str, list]  # the columns anchor and positive, perhaps label or score
MakeRows = Callable[[random.Random, int], Rows]  # of a seed's generator and a number of steps


def shaped(rows: Rows, columns: tuple[str, ...]) -> tuple[Dataset, int]:
    """Rows as a loss wants them, and how many of them a row of pairs makes."""
    if "text" not in columns:
        return Dataset.from_dict({column: rows[column] for column in columns}), 1
    texts = [text for pair in zip(rows["anchor"], rows["positive"], strict=True) for text in pair]
    return Dataset.from_dict({"text": texts, "label": [label for label in rows["label"] for _ in range(2)]}), 2


def of_classes(read: Callable[[], list[list[str]]], classes_per_batch: int) -> MakeRows:
    """Pairs of texts of one class; each batch has pairs of so many classes."""

    def rows(generator: random.Random, steps: int) -> Rows:
        classes = read()
        found: Rows = {"anchor": [], "positive": [], "label": []}
        for _ in range(steps):
            for label in generator.sample(range(len(classes)), classes_per_batch) * (BATCH // classes_per_batch):
                for column, text in zip(("anchor", "positive"), generator.sample(classes[label], 2), strict=True):
                    found[column].append(text)
                found["label"].append(label)
        return found

    return rows


def graded(rows: Rows, names: Tensor) -> Rows:
    """Every second positive from another row of its batch, and pairs scored by the cosine (L, L) of their labels."""
    count = len(rows["anchor"])
    other = [i if i % 2 == 0 else i // BATCH * BATCH + (i + 7) % BATCH for i in range(count)]
    return {
        "anchor": rows["anchor"],
        "positive": [rows["positive"][j] for j in other],
        "score": [float(names[rows["label"][i], rows["label"][j]]) for i, j in enumerate(other)],
    }


def pictures_to_train(fewest: int) -> list[list[str]]:
    """Captions of the pictures that are not for scores and have no fewer than these."""
    return [group for group in captions()[PICTURES_TO_SCORE:] if len(group) >= fewest]


@cache
def few_pairs() -> Rows:
    return training_pairs(0)["squad"].select(range(FEW_PAIRS)).to_dict()


def few_questions(generator: random.Random, steps: int) -> Rows:
    """The same few questions with their answers, again and again."""
    return again_and_again(few_pairs(), generator, steps)


def captions_and_few_questions(generator: random.Random, steps: int) -> Rows:
    """64 pairs of captions and 16 questions, again and again, with their numbers as labels."""
    pictures = pictures_to_train(2)[:64]
    pool = {
        "anchor": [group[0] for group in pictures] + few_pairs()["anchor"][:16],
        "positive": [group[1] for group in pictures] + few_pairs()["positive"][:16],
        "label": list(range(80)),
    }
    return again_and_again(pool, generator, steps)


def again_and_again(pool: Rows, generator: random.Random, steps: int) -> Rows:
    """All rows of a pool in a random order, as often as there are steps."""
    count = len(pool["anchor"])
    rounds = -(-steps * BATCH // count)
    order = [i for _ in range(rounds) for i in generator.sample(range(count), count)][: steps * BATCH]
    return {column: [values[i] for i in order] for column, values in pool.items()}


def apart_captions(generator: random.Random, steps: int) -> Rows:
    """One pair of captions a picture."""
    pairs = [generator.sample(group, 2) for group in generator.sample(pictures_to_train(2), steps * BATCH)]
    return {"anchor": [pair[0] for pair in pairs], "positive": [pair[1] for pair in pairs]}


def repeated(generator: random.Random, steps: int) -> Rows:
    """Captions of four pictures a batch: two pairs of each, and each of them twice."""
    found: Rows = {"anchor": [], "positive": []}
    pictures = pictures_to_train(4)
    for _ in range(steps):
        for group in generator.sample(pictures, BATCH // 4):
            a, b, c, d = generator.sample(group, 4)
            found["anchor"] += [a, c, a, c]
            found["positive"] += [b, d, b, d]
    return found


def noisy_captions(generator: random.Random, steps: int) -> Rows:
    """Triplets of captions; a third of the positives is of another picture, a third of the negatives of the same."""
    pictures = generator.sample(pictures_to_train(3), steps * BATCH)
    found: Rows = {"anchor": [], "positive": [], "negative": [], "is_clean": []}
    for group in pictures:
        anchor, right, other = generator.sample(group, 3)
        wrong = [generator.choice(generator.choice(pictures)) for _ in range(2)]
        is_positive, is_negative = generator.random() < 2 / 3, generator.random() < 2 / 3
        found["anchor"].append(anchor)
        found["positive"].append(right if is_positive else wrong[0])
        found["negative"].append(wrong[1] if is_negative else other)
        found["is_clean"].append(is_positive and is_negative)
    return found


def answered_questions(generator: random.Random, steps: int) -> Rows:
    """Questions of SQuAD with the sentences that answer them."""
    pairs = training_pairs(0)["squad"]
    return pairs.select(generator.sample(range(len(pairs)), steps * BATCH)).to_dict()


def these_again(rows: Rows, chosen: list[int]) -> Rows:
    """Chosen rows from the start again, until they are as many as there were."""
    order = [chosen[i % len(chosen)] for i in range(len(rows["anchor"]))]
    return {column: [values[i] for i in order] for column, values in rows.items()}


def with_itself(rows: Rows) -> Rows:
    """Each anchor as its own positive: what differs is dropout."""
    return rows | {"positive": rows["anchor"]}


def apart(rows: Rows) -> Rows:
    """The same rows with as few repetitions in a batch as their order allows: every fourth row, then the next ones."""
    order = [i for start in range(4) for i in range(start, len(rows["anchor"]), 4)]
    return {column: [texts[i] for i in order] for column, texts in rows.items()}
