import pytest
from datasets import Dataset
from sentence_transformers.util import mine_hard_negatives

from st_plugins.errors import LossError
from st_plugins.training import keep_scored

RATED = {"anchor": list("abcdef"), "good": [5, 3, 2, 4, 3, 5], "bad": [1, 3, 0, 4, 2, 3.5]}


def kept(**options):
    return "".join(keep_scored(Dataset.from_dict(RATED), scores=("good", "bad"), **options)["anchor"])


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"min_pos": 3}, "abdef"),
        ({"max_neg": 3}, "abce"),
        ({"min_gap": 1}, "acef"),
        ({"min_pos": 3, "max_neg": 3, "min_gap": 1}, "ae"),
        ({"min_gap": 0}, "abcdef"),
        ({"min_pos": 6}, ""),
    ],
)
def test_bounds_are_inclusive_and_all_must_hold(bounds, expected):
    assert kept(**bounds) == expected


def test_every_negative_of_a_row_counts():
    rows = {"anchor": ["a", "b"], "scores": [[0.9, 0.1, 0.2], [0.9, 0.1, 0.8]]}
    assert keep_scored(Dataset.from_dict(rows), min_gap=0.5)["anchor"][:] == ["a"]
    two = {"anchor": ["a", "b"], "p": [0.9, 0.9], "n": [[0.1, 0.2], [0.1, 0.8]]}
    assert keep_scored(Dataset.from_dict(two), scores=("p", "n"), max_neg=0.5)["anchor"][:] == ["a"]


def test_it_reads_what_mining_writes(plain, capsys):
    pairs = Dataset.from_dict({"anchor": ["the cat", "a dog", "the tree"], "positive": ["cat", "dog ran", "red tree"]})
    mined = mine_hard_negatives(pairs, plain, num_negatives=1, output_format="n-tuple", output_scores=True)
    gaps = [positive - negative for positive, negative in mined["scores"]]
    assert len(keep_scored(mined, min_gap=sorted(gaps)[1])) == 2
    assert keep_scored(mined, min_gap=min(gaps)).column_names == mined.column_names
    capsys.readouterr()


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (RATED, {"scores": ("good", "bad")}, "There must be at least one bound, got none. Set min_pos"),
        (
            RATED,
            {"min_pos": 1},
            "must be one column of the dataset, or two, got 'scores' for .'anchor', 'good', 'bad'.",
        ),
        (RATED, {"scores": ("good", "bad", "bad"), "min_pos": 1}, "must be one column of the dataset, or two"),
        ({"scores": [[1.0]]}, {"min_pos": 1}, "scores of a positive and a negative, row 0 has .*1.0"),
        ({"scores": [[1.0, 0.5], [1.0, None]]}, {"min_pos": 1}, "finite numbers, row 1 has None. Leave out rows"),
        ({"scores": [[float("nan"), 0.5]]}, {"min_pos": 1}, "finite numbers, row 0 has nan"),
        ({"scores": ["12"]}, {"min_pos": 1}, "finite numbers, row 0 has '12'"),
    ],
)
def test_what_cannot_be_judged_is_refused(rows, options, message):
    with pytest.raises(LossError, match=message):
        keep_scored(Dataset.from_dict(rows), **options)
