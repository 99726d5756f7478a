import pytest
import torch
from datasets import Dataset

from st_plugins.errors import LossError
from st_plugins.training import mine_modality_negatives
from st_plugins.training.modality_negatives import kinds_of_negatives

CORPUS = ["the cat", "a cat sat", "the dog ran", "red mat", "blue tree", "a fast dog", "it was slow", "the mat"]
KINDS = ["title", "body"] * 4
ASKED = {"anchor": ["cat", "dog", "cat", "mat"], "positive": ["the cat", "a fast dog", "a cat sat", "the mat"]}


def test_kinds_by_hand():
    # Ranks:   0      1       2      3       4      5       6
    ranked = [3, 1, 0, 5, 2, 4, 6]
    kinds = ["a", "b", "a", "b", "a", "b", "a"]
    assert kinds_of_negatives(ranked, 0, {0}, kinds, 3, 6) == ([3, 1], [2, 4, 6][:3])
    assert kinds_of_negatives(ranked, 0, {0}, kinds, 4, 5) == ([3, 1], [4])
    # Another positive is neither kind, nor does it take a rank.
    assert kinds_of_negatives(ranked, 0, {0, 3, 4}, kinds, 1, 4) == ([1], [2, 6])
    # A positive that was not found: all of the other modality are above it.
    assert kinds_of_negatives([3, 1, 5, 2], 0, {0}, kinds, 0, 9) == ([3, 1, 5], [2])
    # One of the first rank: none is above it.
    assert kinds_of_negatives([0, 1, 2], 0, {0}, kinds, 0, 9) == ([], [2])


def ranks(model, anchor):
    scores = torch.nn.functional.cosine_similarity(
        torch.tensor(model.encode(anchor))[None], torch.tensor(model.encode(CORPUS)), dim=-1
    )
    return [CORPUS[place] for place in scores.argsort(descending=True).tolist()]


@pytest.mark.parametrize("count", [1, 2])
def test_what_is_mined_is_of_the_kind_it_is_said_to_be(plain, count):
    mined = mine_modality_negatives(
        Dataset.from_dict(ASKED), plain, CORPUS, KINDS, num_negatives=count, range_min=0, range_max=7
    )
    assert mined.column_names == ["anchor", "positive", *(f"negative_{n + 1}" for n in range(2 * count))]
    kind = dict(zip(CORPUS, KINDS, strict=True))
    fallbacks = 0
    for row in mined:
        order = ranks(plain, row["anchor"])
        negatives = [row[f"negative_{n + 1}"] for n in range(2 * count)]
        rights = {p for a, p in zip(ASKED["anchor"], ASKED["positive"], strict=True) if a == row["anchor"]}
        assert not rights & {*negatives}
        assert len({*negatives}) == 2 * count
        above = [
            item
            for item in order[: order.index(row["positive"])]
            if kind[item] != kind[row["positive"]] and item not in rights
        ]
        wrong = [item for item in negatives if kind[item] != kind[row["positive"]]]
        assert wrong == above[:count]
        fallbacks += len(wrong) < count
        assert all(kind[item] == kind[row["positive"]] for item in negatives[len(wrong) :])
    assert len(mined) > 0
    assert fallbacks == (1 if count == 1 else 0)  # pairs for which others of the second kind stand in


def test_pairs_with_too_few_are_left_out(plain):
    everything = mine_modality_negatives(Dataset.from_dict(ASKED), plain, CORPUS, KINDS, range_min=0, range_max=7)
    deep = mine_modality_negatives(Dataset.from_dict(ASKED), plain, CORPUS, KINDS, range_min=5, range_max=7)
    assert 0 < len(deep) < len(everything)
    for row in deep:
        rights = {p for a, p in zip(ASKED["anchor"], ASKED["positive"], strict=True) if a == row["anchor"]}
        order = [item for item in ranks(plain, row["anchor"]) if item not in rights]
        assert order.index(row["negative_2"]) >= 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modalities": KINDS[:3]}, "Each item must have one modality, got 8 items and 3 modalities"),
        ({"corpus": [*CORPUS[:7], "the cat"]}, "Every item of the corpus must come once, 1 come again"),
        ({"corpus": [*CORPUS[:7], "other"]}, r"Every positive must be in the corpus, 1 are not: \['the mat'\]"),
        ({"num_negatives": 0}, "num_negatives must be at least 1, .* got 0, 0 and 7"),
        ({"range_min": 7}, "0 <= range_min < range_max, got 1, 7 and 7"),
        ({"num_negatives": 7}, "No pair has 14 negatives among the 7 nearest items. Take a lower range_min"),
    ],
)
def test_what_cannot_be_mined_is_refused(plain, options, message):
    arguments = {"corpus": CORPUS, "modalities": KINDS, "range_min": 0, "range_max": 7, **options}
    with pytest.raises(LossError, match=message):
        mine_modality_negatives(Dataset.from_dict(ASKED), plain, **arguments)
