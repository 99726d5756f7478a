import numpy as np

from st_plugins_export.batches import pad, plan_batches


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


def test_padding_goes_to_the_side_it_is_told():
    assert pad([[1, 2, 3], [4]], 9, side="right").tolist() == [[1, 2, 3], [4, 9, 9]]
    assert pad([[1, 2, 3], [4]], 9, side="left").tolist() == [[1, 2, 3], [9, 9, 4]]
