import pytest
import torch

import reference
from st_plugins.errors import LossError
from st_plugins.losses.candidates import candidate_cosines


def test_every_anchor_meets_every_text_of_the_other_columns():
    columns = [torch.randn(3, 4).double() for _ in range(3)]
    scores = candidate_cosines(columns)
    candidates = [row for column in columns[1:] for row in column.tolist()]
    assert scores.shape == (3, 6)
    for i, anchor in enumerate(columns[0].tolist()):
        expected = [
            reference.dot(reference.truncate(anchor, 4), reference.truncate(candidate, 4)) for candidate in candidates
        ]
        assert scores[i].tolist() == pytest.approx(expected, rel=1e-12)


def test_a_vector_of_zeros_is_like_no_other():
    assert candidate_cosines([torch.zeros(2, 3), torch.ones(2, 3)]).abs().sum() == 0


@pytest.mark.parametrize("shapes", [[(3, 4)], [(3, 4), (2, 4)], [(3, 4), (3, 5)]])
def test_columns_that_do_not_fit_are_refused(shapes):
    with pytest.raises(LossError, match=r"must have the columns \(anchor, positive, ...\), as many rows .* of shapes"):
        candidate_cosines([torch.ones(shape) for shape in shapes])
