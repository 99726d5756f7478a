import itertools

import numpy as np
import pytest

from langchain_st_plugins.budgets import Budget
from st_plugins.errors import SizeError


def test_what_is_given_goes_before_what_is_not():
    for given, other in itertools.product(itertools.product((None, 2), (None, 8), (None, "a")), repeat=2):
        layer, dim, exit = Budget(*given).over(Budget(*other))
        assert layer == (other[0] if given[0] is None else given[0])
        assert dim == (other[1] if given[1] is None else given[1])
        if given[2] is not None:
            assert exit == "a"
        else:  # a layer alone means that layer
            assert exit == (None if given[0] is not None else other[2])


def test_numbers_of_numpy_become_pythons():
    budget = Budget.checked(np.int64(3), np.int32(8), np.float32(0.5))
    assert budget == (3, 8, 0.5)
    assert [type(value) for value in budget] == [int, int, float]
    assert Budget.checked(exit=1) == (None, None, 1.0)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"dim": 0}, SizeError, r"dim must be an integer of at least 1 or None, got 0\."),
        ({"layer": -1}, SizeError, r"layer must be an integer of at least 1 or None, got -1\."),
        ({"dim": 8.0}, TypeError, r"dim must be an integer of at least 1 or None, got 8\.0"),
        ({"layer": True}, TypeError, r"layer must be an integer of at least 1 or None, got True"),
        ({"exit": True}, TypeError, r"name of a policy, a cosine like 0\.98, or None, got True"),
        ({"exit": ["fast"]}, TypeError, r"name of a policy, a cosine like 0\.98, or None, got \['fast'\]"),
    ],
)
def test_what_is_no_budget_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        Budget.checked(**given)
