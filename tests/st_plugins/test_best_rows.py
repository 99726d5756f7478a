import numpy as np
import pytest

from st_plugins.best_rows import k_best


@pytest.mark.parametrize("k", [0, 1, 3, 7, 49, 50, 60])
def test_it_is_a_full_sort_in_which_equal_ones_keep_their_order(k):
    for seed in range(20):
        scores = np.random.default_rng(seed).integers(0, 6, 50).astype(np.float32)  # many equals
        expected = sorted(range(50), key=lambda row: (-scores[row], row))[:k]
        assert k_best(scores, k).tolist() == expected


def test_of_nothing_there_is_no_best():
    assert k_best(np.zeros(0), 3).tolist() == []
