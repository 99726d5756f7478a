import numpy as np
import pytest

from langchain_st_plugins import scans


def slowly(vectors, query, count, wanted):
    rows = list(range(len(vectors))) if wanted is None else list(wanted)
    return sorted(rows, key=lambda row: -float(vectors[row] @ query))[:count]  # sorted keeps ties in order


@pytest.mark.parametrize("count", [1, 3, 40, 200])
@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_any_chunk_gives_the_rows_of_a_sort(count, chunk, monkeypatch):
    monkeypatch.setattr(scans, "_CHUNK", chunk)
    random = np.random.default_rng(count)
    vectors = random.integers(-3, 4, (150, 3)).astype(np.float32)  # many ties, and no rounding
    query = np.array([1, 2, -1], dtype=np.float32)
    for wanted in (None, np.arange(0, 150, 4)):
        assert scans.best_rows(vectors, query, count, wanted).tolist() == slowly(vectors, query, count, wanted)


def test_nothing_has_no_best_rows():
    assert scans.best_rows(np.zeros((0, 3)), np.ones(3), 2).tolist() == []
    assert scans.best_rows(np.ones((4, 3)), np.ones(3), 2, np.zeros(0, dtype=np.int64)).tolist() == []
