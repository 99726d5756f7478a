import pytest

from st_plugins.errors import LossError
from st_plugins.training.text_rows import only_texts


def test_the_name_of_the_dataset_is_no_column():
    assert only_texts([{"text": "a", "dataset_name": "x"}, {"text": "b", "dataset_name": "x"}]) == ("text", ["a", "b"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"a": "x", "b": "y"}, r"exactly one column, of texts, got columns \['a', 'b'\] with \['str'\]"),
        ({"a": None}, r"got columns \['a'\] with \['NoneType'\].*filter out rows without a text"),
        ({}, r"got columns \[\]"),
    ],
)
def test_other_rows_are_refused(row, message):
    with pytest.raises(LossError, match=message):
        only_texts([row])
