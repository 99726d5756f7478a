import numpy as np
import pytest

from st_plugins_export.batches import pad, plan_batches, token_mask


def test_batches_hold_every_text_once_and_keep_the_budget():
    lengths = np.random.default_rng(0).integers(1, 90, size=200).tolist()
    for budget, most in ((64, None), (512, None), (512, 5), (1, None)):
        batches = list(plan_batches(lengths, budget, most))
        assert sorted(np.concatenate(batches).tolist()) == list(range(200))
        for batch in batches:
            tokens = len(batch) * max(lengths[row] for row in batch)
            assert tokens <= budget or len(batch) == 1
            assert most is None or len(batch) <= most
    assert list(plan_batches([], 512, None)) == []


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_goes_to_the_side_it_is_told(side):
    generator = np.random.default_rng(0)
    for count in (1, 2, 5):
        rows = [generator.integers(10, 99, size=size).tolist() for size in generator.integers(1, 7, size=count)]
        longest = max(map(len, rows))
        gaps = [[9] * (longest - len(row)) for row in rows]
        expected = [gap + row if side == "left" else row + gap for gap, row in zip(gaps, rows, strict=True)]
        mask = token_mask([len(row) for row in rows], side=side)
        assert pad(rows, 9, mask).tolist() == expected
        assert (pad(rows, 9, mask) != 9).tolist() == mask.tolist()
        assert pad(rows, 9, mask).dtype == np.int64
