import numpy as np

from langchain_st_plugins.row_buffers import RowBuffer


def test_every_state_keeps_its_rows_while_later_ones_grow():
    random, states, expected = np.random.default_rng(0), [], []
    state, rows = RowBuffer.of(random.random((2, 3))), None
    rows = state.rows.copy()
    for count in (1, 1, 5, 2, 40):
        states.append(state)
        expected.append(rows)
        new = random.random((count, 3))
        state, rows = state.extended(new), np.concatenate([rows, new])
    for one, other in zip([*states, state], [*expected, rows], strict=True):
        np.testing.assert_array_equal(one.rows, other)


def test_growing_by_one_copies_seldom():
    state = RowBuffer.of(np.zeros((1, 2)))
    buffers = set()
    for _ in range(1000):
        state = state.extended(np.ones((1, 2)))
        buffers.add(id(state.buffer))
    assert len(buffers) <= 12


def test_rows_of_a_file_are_not_written_to(tmp_path):
    np.save(tmp_path / "rows.npy", np.zeros((2, 2)))
    state = RowBuffer.of(np.load(tmp_path / "rows.npy", mmap_mode="r"))
    assert state.extended(np.ones((1, 2))).rows.tolist() == [[0, 0], [0, 0], [1, 1]]
    assert np.load(tmp_path / "rows.npy").tolist() == [[0, 0], [0, 0]]
