import pytest

from st_plugins.bulk import JobSettings
from st_plugins.errors import BulkError


def test_what_makes_no_sense_is_refused():
    with pytest.raises(BulkError, match='task must be "document" or "query", got \'both\''):
        JobSettings("m", task="both")
    for name in ("layer", "truncate_dim", "threads", "token_budget"):
        for value in (0, -1, True, 1.5):
            with pytest.raises(BulkError, match=f"{name} must be a positive integer, got {value!r}"):
                JobSettings("m", **{name: value})


def test_settings_are_plain_data():
    settings = JobSettings("m", layer=2)
    assert settings == JobSettings("m", layer=2)
    assert hash(settings) == hash(JobSettings("m", layer=2))
