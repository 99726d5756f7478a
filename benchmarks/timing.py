"""How every benchmark here measures: sides interleaved in one process, medians, the machine named."""

import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import torch


def print_machine(*packages: str) -> None:
    """Name the processor, the GPU where there is one, and the versions that the numbers below belong to."""
    print(f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    if torch.cuda.is_available():
        print(torch.cuda.get_device_name())
    print(", ".join(f"{package} {version(package)}" for package in packages))


def median_seconds(runs: dict[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """Seconds of each run, all run once per round so that other programs slow all alike; one round more to warm up."""
    return _medians(runs, rounds, time.perf_counter)


def median_thread_seconds(runs: dict[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """:func:`median_seconds`, but only the time that this thread was running: other programs count little."""
    return _medians(runs, rounds, time.thread_time)


def _medians(runs: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for is_counted in [False, *[True] * rounds]:
        for name, run in runs.items():
            started = clock()
            run()
            if is_counted:
                seconds[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_mebibytes() -> float:
    """The most memory held so far: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
