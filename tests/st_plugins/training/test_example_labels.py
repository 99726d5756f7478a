from collections import Counter

import pytest
from datasets import Dataset
from sentence_transformers.util import mine_hard_negatives

from st_plugins.errors import LossError
from st_plugins.training.example_labels import class_examples, similarity_examples

SIZES = {"a": 3, "b": 5, "c": 2}
# Classes take turns, so that the order of the rows is not that of the classes.
PAIRS = sorted((f"{label}{index}", label) for label, size in SIZES.items() for index in range(size))[::-1]
PAIRS = PAIRS[::2] + PAIRS[1::2]
TEXTS, LABELS = map(list, zip(*PAIRS, strict=True))


def rows(columns):
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@pytest.mark.parametrize("num_negatives", [1, 3, 5])
@pytest.mark.parametrize("seed", range(20))
def test_positives_are_of_the_class_and_negatives_of_others(num_negatives, seed):
    examples = class_examples(TEXTS, LABELS, num_negatives=num_negatives, seed=seed)
    assert list(examples) == ["anchor", "positive", *[f"negative_{n + 1}" for n in range(num_negatives)]]
    assert examples["anchor"] == TEXTS
    for row in rows(examples):
        anchor, positive, *negatives = row.values()
        assert positive != anchor
        assert positive[0] == anchor[0]
        assert len({*negatives}) == num_negatives
        assert not [negative for negative in negatives if negative[0] == anchor[0]]


def test_every_candidate_is_drawn_as_often_as_any_other():
    draws = 3000
    positives, negatives = Counter(), Counter()
    for seed in range(draws):
        for row in rows(class_examples(TEXTS, LABELS, num_negatives=2, seed=seed)):
            if row["anchor"] == "b2":
                positives[row["positive"]] += 1
                negatives.update([row["negative_1"], row["negative_2"]])
    assert set(positives) == {"b0", "b1", "b3", "b4"}
    assert set(negatives) == {"a0", "a1", "a2", "c0", "c1"}
    # Five standard deviations of a binomial count.
    for counts, share in ((positives, 1 / 4), (negatives, 2 / 5)):
        deviation = (draws * share * (1 - share)) ** 0.5
        assert all(abs(count - draws * share) < 5 * deviation for count in counts.values())


def test_the_same_seed_gives_the_same_examples():
    first = class_examples(TEXTS, LABELS, num_negatives=3, seed=5)
    assert class_examples(TEXTS, LABELS, num_negatives=3, seed=5) == first
    assert class_examples(TEXTS, LABELS, num_negatives=3, seed=6) != first


def test_labels_may_be_numbers_and_classes_of_two_know_their_positive():
    examples = class_examples(["w", "x", "y", "z"], [0, 1, 0, 1], num_negatives=2)
    assert examples["positive"] == ["y", "z", "w", "x"]
    assert [{row["negative_1"], row["negative_2"]} for row in rows(examples)] == [{"x", "z"}, {"w", "y"}] * 2


def test_a_text_that_comes_twice_is_not_its_own_positive():
    texts, labels = ["w", "x", "w", "y", "z"], [0, 0, 0, 1, 1]
    assert class_examples(texts, labels, num_negatives=1)["anchor"] == ["w", "x", "y", "z"]
    assert class_examples(texts, labels, num_negatives=1)["positive"] == ["x", "w", "z", "y"]


def test_the_rows_are_a_dataset():
    dataset = Dataset.from_dict(class_examples(TEXTS, LABELS, num_negatives=1))
    assert dataset.column_names == ["anchor", "positive", "negative_1"]
    assert len(dataset) == len(TEXTS)


def test_classes_without_a_second_text_are_refused_by_name():
    with pytest.raises(LossError, match=r"two distinct texts or more, 2 have one: \['b', 'c'\].* leave them out"):
        class_examples(["x", "y", "u", "u", "v"], ["a", "a", "b", "b", "c"])


def test_a_text_in_two_classes_is_refused_and_the_advice_helps():
    texts, labels = ["x", "y", "x", "z", "w"], [0, 0, 1, 1, 0]
    with pytest.raises(LossError, match=r"'x' is in 0 and 1.* keep its last class"):
        class_examples(texts, labels, num_negatives=1)
    texts, labels = zip(*dict(zip(texts, labels, strict=True)).items(), strict=True)
    assert class_examples(texts, labels, num_negatives=1)["positive"] == ["z", "w", "x", "y"]


def test_too_few_texts_of_other_classes_are_refused():
    with pytest.raises(LossError, match=r"num_negatives=6 texts in other classes, the largest leaves 5. Take fewer"):
        class_examples(TEXTS, LABELS, num_negatives=6)
    with pytest.raises(LossError, match=r"num_negatives=1 texts in other classes, the largest leaves 0"):
        class_examples(["x", "y"], ["a", "a"], num_negatives=1)


@pytest.mark.parametrize("count", [0, -1])
def test_no_negatives_are_refused(count):
    with pytest.raises(LossError, match="num_negatives must be at least 1, got"):
        class_examples(TEXTS, LABELS, num_negatives=count)


def test_a_label_too_few_is_refused():
    with pytest.raises(LossError, match="one label, got 2 texts and 1 labels"):
        class_examples(["x", "y"], ["a"])


def test_pairs_rated_alike_become_examples_in_both_directions():
    examples = similarity_examples(["a", "c", "e", "g"], ["b", "d", "f", "h"], [4.0, 3.99, 5, 0])
    assert examples == {"anchor": ["a", "b", "e", "f"], "positive": ["b", "a", "f", "e"]}
    assert similarity_examples(["a"], ["b"], [3.0], threshold=3.0)["anchor"] == ["a", "b"]


@pytest.mark.parametrize("score", [-0.1, 5.1, float("nan")])
def test_scores_on_another_scale_are_refused(score):
    with pytest.raises(LossError, match="scores must be from 0 to 5, got"):
        similarity_examples(["a", "c"], ["b", "d"], [4.5, score])


def test_scores_up_to_one_are_refused_and_the_advice_helps():
    scores = [0.2, 1.0]
    with pytest.raises(LossError, match=r"reach the threshold 4.0, the highest score is 1.0. Multiply scores"):
        similarity_examples(["a", "c"], ["b", "d"], scores)
    assert similarity_examples(["a", "c"], ["b", "d"], [5 * score for score in scores])["anchor"] == ["c", "d"]
    with pytest.raises(LossError, match="the highest score is None"):
        similarity_examples([], [], [])


def test_a_score_too_few_is_refused():
    with pytest.raises(LossError, match="one score, got 2, 2 texts and 1 scores"):
        similarity_examples(["a", "c"], ["b", "d"], [4.5])


def test_negatives_that_the_host_mines_stay_below_a_share_of_the_positive(plain, texts):
    """What the recipe calls positive-aware: a margin of 0.05 keeps those of at most 0.95 times its score."""
    pairs = similarity_examples(texts[:2], texts[2:4], [5, 5])
    corpus = [f"{text} {word}" for text in texts for word in ("cat", "tree", "was")]
    mined = mine_hard_negatives(
        Dataset.from_dict(pairs),
        plain,
        corpus=corpus,
        relative_margin=0.05,
        num_negatives=2,
        output_format="n-tuple",
        output_scores=True,
        verbose=False,
    )
    assert mined.column_names[:4] == ["anchor", "positive", "negative_1", "negative_2"]
    assert len(mined) > 0
    assert all(max(row["scores"][1:]) <= 0.95 * row["scores"][0] + 1e-6 for row in mined)
    free = mine_hard_negatives(
        Dataset.from_dict(pairs),
        plain,
        corpus=corpus,
        num_negatives=2,
        output_format="n-tuple",
        output_scores=True,
        verbose=False,
    )
    assert any(max(row["scores"][1:]) > 0.95 * row["scores"][0] for row in free)
