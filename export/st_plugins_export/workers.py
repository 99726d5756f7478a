"""Runs batches on several threads: in order, in bounded memory, and none goes on after an error. Pure Python."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import TypeVar

Batch = TypeVar("Batch", bound=Sized)
Result = TypeVar("Result")


def cores() -> int:
    """The processor cores this process may use.

    Example:
        >>> cores() >= 1
        True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_batches(
    batches: Iterable[Batch],
    work: Callable[[Batch], Result],
    done: Callable[[Result], object],
    *,
    workers: int,
    ahead: int,
) -> None:
    """Work on each batch; the next batches are made while earlier ones run.

    A single batch, or a single worker, runs in the calling thread. Otherwise the threads live as long as the call:
    at its end, at an error and at Ctrl-C those that run are waited for, and no other batch is begun.

    Args:
        batches: Taken one by one in the calling thread.
        work: Done for each, in any thread. The first error, in the order of the batches, is raised.
        done: Called with each result in the calling thread, in the order of the batches.
        workers: Batches at the same time.
        ahead: Rows, summed over batches, that may wait or run at the same time before no more are taken.

    Example:
        >>> run_batches(["a", "bc", "def"], len, print, workers=2, ahead=100)
        1
        2
        3
    """
    batches = iter(batches)
    first = list(islice(batches, 2 if workers > 1 else 0))
    if len(first) < 2:
        for batch in chain(first, batches):
            done(work(batch))
        return
    waiting: deque[tuple[int, Future[Result]]] = deque()
    rows = 0
    with ThreadPoolExecutor(workers, thread_name_prefix="st_plugins") as pool:
        try:
            for batch in chain(first, batches):
                while waiting and rows + len(batch) > ahead:
                    count, future = waiting.popleft()
                    rows -= count
                    done(future.result())
                waiting.append((len(batch), pool.submit(work, batch)))
                rows += len(batch)
            for _, future in waiting:
                done(future.result())
        finally:
            pool.shutdown(cancel_futures=True)
