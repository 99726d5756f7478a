import pytest

from st_plugins.counts import check_counts, is_count
from st_plugins.errors import SizeError


@pytest.mark.parametrize("count", [0, -1, 2.0, True, "3", None])
def test_counts_that_cannot_be_are_refused(count):
    assert not is_count(count)
    check_counts("AttentionPooling", rank=1, num_heads=10**9)
    with pytest.raises(SizeError, match="AttentionPooling needs a positive integer rank, got"):
        check_counts("AttentionPooling", num_heads=8, rank=count)
