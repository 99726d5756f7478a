import pytest

import st_plugins
from st_plugins.errors import InputError

DENSE = {"a": 0.9, "b": 0.8, "c": 0.5, "e": 0.61}
SPARSE = {"b": 120.0, "d": 20.0, "a": 45.0}


def by_hand(alpha):
    fused = {}
    for weight, scores in ((alpha, DENSE), (1 - alpha, SPARSE)):
        least, greatest = min(scores.values()), max(scores.values())
        for document, score in scores.items():
            fused[document] = fused.get(document, 0.0) + weight * (score - least) / max(greatest - least, 1e-9)
    return fused


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_it_is_the_formula(alpha):
    found = st_plugins.fuse_scores(DENSE, SPARSE, alpha=alpha)
    assert found == pytest.approx(by_hand(alpha))
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_at_its_ends_alpha_gives_the_order_of_one_list():
    dense, sparse = (st_plugins.fuse_scores(DENSE, SPARSE, alpha=alpha) for alpha in (1.0, 0.0))
    assert [document for document in dense if document in DENSE] == ["a", "b", "e", "c"]
    assert list(sparse)[:2] == ["b", "a"]
    assert sparse["d"] == 0


def test_lengthening_and_shifting_a_list_changes_nothing():
    moved = {document: 7 * score - 100 for document, score in SPARSE.items()}
    assert st_plugins.fuse_scores(DENSE, moved) == pytest.approx(st_plugins.fuse_scores(DENSE, SPARSE))


def test_an_empty_list_has_no_say():
    alone = st_plugins.fuse_scores(DENSE, DENSE)
    assert st_plugins.fuse_scores(DENSE, {}, alpha=0.2) == alone
    assert st_plugins.fuse_scores({}, DENSE, alpha=0.2) == alone
    assert st_plugins.fuse_scores({}, {}) == {}


def test_the_only_hit_of_a_list_counts():
    """In the public code it is (s - s) / 1e-9 = 0, as if nothing had been found."""
    assert st_plugins.fuse_scores({"a": 1.0, "b": 0.5}, {"b": 33.0}) == {"a": 0.5, "b": 0.5}
    assert st_plugins.fuse_scores({}, {"b": 33.0}) == {"b": 1.0}


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_weights_that_are_none_are_refused(alpha):
    with pytest.raises(InputError, match="alpha must be from 0 .sparse alone. to 1 .dense alone., got"):
        st_plugins.fuse_scores(DENSE, SPARSE, alpha=alpha)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_no_numbers_are_refused(score):
    with pytest.raises(InputError, match="Scores must be finite numbers, got .* for 'b'. Leave it out"):
        st_plugins.fuse_scores({"a": 1.0, "b": score}, SPARSE)
