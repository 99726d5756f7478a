"""The table of precisions, and which of them an export is made in."""

import pytest

from st_plugins.errors import PrecisionError
from st_plugins_export.precisions import PRECISIONS, wanted_precisions


def test_float32_comes_first_and_every_precision_once():
    assert [found.name for found in wanted_precisions([])] == ["fp32"]
    assert [found.name for found in wanted_precisions(["fp16", "fp32", "fp16"])] == ["fp32", "fp16"]


def test_no_two_precisions_share_a_file():
    assert len({found.suffix for found in PRECISIONS.values()}) == len(PRECISIONS)


def test_no_text_may_be_ten_times_as_far_off_as_the_mean():
    assert PRECISIONS["fp16"].min_cosine_of_one == pytest.approx(0.999)


def test_a_bar_can_be_lowered_for_one_precision():
    full, half = wanted_precisions(["fp16"], {"fp16": 0.99})
    assert half.min_cosine == 0.99
    assert half.min_cosine_of_one == pytest.approx(0.9)
    assert full == PRECISIONS["fp32"]
    assert PRECISIONS["fp16"].min_cosine == 0.9999


@pytest.mark.parametrize(
    ("names", "bars", "message"),
    [
        ("fp16", None, r"must be a list of names, got 'fp16'\. Write precisions=\['fp16'\]"),
        (["fp8"], None, r"must be one of \['fp32', 'fp16'.*\], got 'fp8'"),
        (["fp16"], {"half": 0.9}, "must be one of .* got 'half'"),
        (["fp16"], {"fp16": 90}, "min_cosine must be from 0 to 1, got 90 for 'fp16'"),
    ],
)
def test_what_does_not_exist_is_refused(names, bars, message):
    with pytest.raises(PrecisionError, match=message):
        wanted_precisions(names, bars)
