"""Batches on several threads: order, memory, errors, interruptions."""

import threading
import time

import pytest

from st_plugins_export.workers import cores, run_batches


def ours():
    return [thread for thread in threading.enumerate() if thread.name.startswith("st_plugins")]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_order_whatever_finishes_first(workers):
    found = []

    def work(batch):
        time.sleep(0.002 * (3 - len(batch)))
        return batch

    batches = [["a"], ["b", "c"], ["d"], ["e", "f", "g"]] * 3
    run_batches(batches, work, found.append, workers=workers, ahead=100)
    assert found == batches
    assert ours() == []


def test_batches_run_side_by_side():
    meeting = threading.Barrier(3, timeout=10)  # breaks unless three are there at once
    run_batches(["a", "b", "c"], lambda batch: meeting.wait(), lambda result: None, workers=3, ahead=100)


@pytest.mark.parametrize(("batches", "workers"), [(["a"], 4), (["a", "b"], 1), ([], 4)])
def test_one_batch_or_one_worker_needs_no_thread(batches, workers):
    found = []
    run_batches(batches, lambda batch: threading.current_thread(), found.append, workers=workers, ahead=100)
    assert found == [threading.main_thread()] * len(batches)


def test_no_more_than_told_is_ahead():
    made, done, widest = [0], [0], [0]

    def batches():
        for _ in range(50):
            made[0] += 2
            widest[0] = max(widest[0], made[0] - done[0])
            yield "ab"

    def finished(count):
        done[0] += count

    run_batches(batches(), len, finished, workers=2, ahead=10)
    assert done == [100]
    assert 4 <= widest[0] <= 12  # the one just made may be over


@pytest.mark.parametrize("workers", [1, 3])
def test_the_first_error_of_the_order_ends_all(workers):
    begun = []

    def work(batch):
        begun.append(batch)
        if batch in ("03", "05"):
            time.sleep(0.02 if batch == "03" else 0)
            raise ValueError(f"bad {batch}")
        time.sleep(0.002)

    with pytest.raises(ValueError, match="bad 03"):
        run_batches([f"{i:02d}" for i in range(60)], work, lambda result: None, workers=workers, ahead=1000)
    assert len(begun) < 60
    assert ours() == []


def test_ctrl_c_ends_all():
    begun = []

    def interrupted(result):
        raise KeyboardInterrupt

    def work(batch):
        begun.append(batch)
        time.sleep(0.002)

    with pytest.raises(KeyboardInterrupt):
        run_batches([str(i) for i in range(60)], work, interrupted, workers=2, ahead=1000)
    assert len(begun) < 60
    assert ours() == []


def test_an_error_of_the_source_ends_all():
    def batches():
        yield "a"
        yield "b"
        raise ValueError("no third one")

    with pytest.raises(ValueError, match="no third one"):
        run_batches(batches(), len, lambda result: None, workers=2, ahead=100)
    assert ours() == []


def test_cores_are_those_of_this_process(monkeypatch):
    assert cores() >= 1
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {3, 5, 9}, raising=False)
    assert cores() == 3
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert cores() == 1
