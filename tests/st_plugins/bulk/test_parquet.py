import sys

import pytest

from st_plugins.bulk.parquet import arrow, parquet
from st_plugins.errors import MissingExtraError


def test_pyarrow_is_needed(monkeypatch):
    assert parquet().__name__ == "pyarrow.parquet"
    assert arrow().__name__ == "pyarrow"
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    for module in (parquet, arrow):
        with pytest.raises(MissingExtraError, match=r"'pyarrow', which is not installed. Run: pip install .*\[bulk\]"):
            module()
