"""Makes training examples out of labels: texts of one class find each other, and so do texts rated alike.

It mines nothing: negatives that need a model come from ``sentence_transformers.util.mine_hard_negatives``.
"""

import random
from collections.abc import Hashable, Sequence

from st_plugins.errors import LossError

# Ratings of the STS sets go from 0 to 5.
_LEAST_SIMILAR, _MOST_SIMILAR = 0, 5


def class_examples(
    texts: Sequence[str], labels: Sequence[Hashable], *, num_negatives: int = 7, seed: int = 0
) -> dict[str, list[str]]:
    """For each text another one of its class as the positive, and texts of other classes as negatives.

    For data of classification and clustering. The names of the classes are not used: the model learns which texts
    belong together, not what somebody called that. Positives and negatives are drawn evenly, negatives of a row without
    repetition, from a generator of its own: the same call gives the same examples.

    Args:
        texts: A text that comes more than once, always in the same class, counts once.
        labels: The class of each text.
        num_negatives: Per text, >= 1. A training step encodes 2 + this many texts per row.
        seed: Another one draws other examples of the same texts.

    Returns:
        dict: Columns ``anchor``, ``positive``, ``negative_1`` ... for ``datasets.Dataset.from_dict``, one row per
        distinct text, in the order of the texts. In-batch negatives must be off: rows of one class are no negatives of
        each other.

    Raises:
        LossError: If a class has one text only, a text is in two classes, or there are too few texts of other classes.

    References:
        Lee et al., *NV-Embed*, https://arxiv.org/abs/2405.17428: "example-based" against label-based data. Sets with
        two classes keep their label texts there: (text, its label, the other label). The number of negatives is ours.

    Example:
        >>> texts, labels = ["red", "blue", "two", "ten"], ["color", "color", "number", "number"]
        >>> class_examples(texts, labels, num_negatives=1)["positive"]
        ['blue', 'red', 'ten', 'two']
    """
    if num_negatives < 1:
        raise LossError(f"num_negatives must be at least 1, got {num_negatives!r}.")
    members = _members(texts, labels)
    pool = [text for group in members.values() for text in group]
    draw = random.Random(seed)
    rows: dict[str, tuple[str, list[str]]] = {}
    start = 0
    for group in members.values():
        if len(pool) - len(group) < num_negatives:
            raise LossError(
                f"Every class must leave num_negatives={num_negatives} texts in other classes, the largest leaves "
                f"{len(pool) - max(map(len, members.values()))}. Take fewer negatives or more texts."
            )
        for index, text in enumerate(group):
            other = draw.randrange(len(group) - 1)
            # The classes lie one behind the other in the pool: a place past the own class is one that far on.
            places = draw.sample(range(len(pool) - len(group)), num_negatives)
            negatives = [pool[place + len(group) if place >= start else place] for place in places]
            rows[text] = (group[other + (other >= index)], negatives)
        start += len(group)
    anchors = list(dict.fromkeys(texts))
    columns = {"anchor": anchors, "positive": [rows[text][0] for text in anchors]}
    return columns | {f"negative_{n + 1}": [rows[text][1][n] for text in anchors] for n in range(num_negatives)}


def similarity_examples(
    first: Sequence[str], second: Sequence[str], scores: Sequence[float], *, threshold: float = 4.0
) -> dict[str, list[str]]:
    """Pairs of texts that were rated alike, each in both directions.

    Args:
        first: One text of each pair.
        second: The other.
        scores: How alike they are, from 0 to 5.
        threshold: The lowest score that makes a pair an example.

    Returns:
        dict: Columns ``anchor`` and ``positive``, two rows per pair that is alike enough. Negatives are mined, see the
        example of :func:`~st_plugins.training.two_stage_trainer`.

    Raises:
        LossError: If the columns differ in length, a score is not from 0 to 5, or no pair is alike enough.

    References:
        Lee et al., *NV-Embed*, https://arxiv.org/abs/2405.17428.

    Example:
        >>> similarity_examples(["a cat", "a cat"], ["one cat", "a cave"], [4.5, 1.0])
        {'anchor': ['a cat', 'one cat'], 'positive': ['one cat', 'a cat']}
    """
    if not len(first) == len(second) == len(scores):
        raise LossError(
            f"Each pair must have one score, got {len(first)}, {len(second)} texts and {len(scores)} scores."
        )
    wrong = [score for score in scores if not _LEAST_SIMILAR <= score <= _MOST_SIMILAR]
    if wrong:
        raise LossError(f"scores must be from 0 to 5, got {wrong[0]!r}. Leave out pairs without a score.")
    alike = [pair for *pair, score in zip(first, second, scores, strict=True) if score >= threshold]
    if not alike:
        raise LossError(
            f"At least one pair must reach the threshold {threshold}, the highest score is "
            f"{max(scores, default=None)}. Multiply scores that go from 0 to 1 by 5."
        )
    both = [direction for one, other in alike for direction in ((one, other), (other, one))]
    return {"anchor": [anchor for anchor, _ in both], "positive": [positive for _, positive in both]}


def _members(texts: Sequence[str], labels: Sequence[Hashable]) -> dict[Hashable, list[str]]:
    """The distinct texts of each class, in order."""
    if len(texts) != len(labels):
        raise LossError(f"Each text must have one label, got {len(texts)} texts and {len(labels)} labels.")
    classes: dict[str, Hashable] = {}
    for text, label in zip(texts, labels, strict=True):
        if classes.setdefault(text, label) != label:
            raise LossError(
                f"Each text must be in one class, {text!r} is in {classes[text]!r} and {label!r}. Leave it out, or "
                "keep its last class: texts, labels = zip(*dict(zip(texts, labels)).items())."
            )
    members: dict[Hashable, list[str]] = {}
    for text, label in classes.items():
        members.setdefault(label, []).append(text)
    alone = [label for label, group in members.items() if len(group) == 1]
    if alone:
        raise LossError(
            f"Every class must have two distinct texts or more, {len(alone)} have one: {alone[:5]}. There is no "
            "positive for these texts; leave them out."
        )
    return members
