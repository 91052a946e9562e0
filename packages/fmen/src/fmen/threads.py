"""How many threads a command computes with."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import cv2
import torch

from fmen_core.control_groups import control_groups

ROUNDS = 5
"""Most steps that are timed with each number of threads."""

LIMIT = 5.0
"""Seconds after which no further round begins."""


def available_cores(*, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of CPU cores that this process may use: its affinity, and its control groups' quota.

    Args:
        proc: Where ``/proc`` is mounted.
        cgroups: Where the control groups are mounted.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, int(min([cores, *_quotas(proc, cgroups)])))


def _quotas(proc: Path, cgroups: Path) -> Iterator[float]:
    """Yield the cores that each limited control group of this process may use."""
    for version, group in control_groups("cpu", proc=proc, mount=cgroups):
        files = [group / "cpu.max"] if version == 2 else [group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us"]
        if all(file.is_file() for file in files):
            quota, period = " ".join(file.read_text() for file in files).split()
            if quota.isdecimal():  # otherwise "max" or -1, which is none
                yield int(quota) / int(period)


def use_threads(count: int | None) -> None:
    """Compute with ``count`` threads; without a count, with PyTorch's default, at most one per available core.

    PyTorch's default is ``OMP_NUM_THREADS``, or one per core of the machine.
    """
    count = count or min(torch.get_num_threads(), available_cores())
    torch.set_num_threads(count)
    cv2.setNumThreads(count)


@contextmanager
def threads_restored() -> Iterator[None]:
    """Restore PyTorch's number of threads after the block."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds_by_threads(
    step: Callable[[], object], counts: Sequence[int], *, clock: Callable[[], float] = time.perf_counter
) -> dict[int, float]:
    """Return the median seconds of a step with each number of threads. They take turns.

    The first step of each is not counted, unless the steps are so long that no other is timed.

    Args:
        step: What is timed.
        counts: The numbers of threads.
        clock: Returns the time in seconds.
    """
    found: dict[int, list[float]] = {count: [] for count in counts}
    with threads_restored():
        for _ in range(ROUNDS + 1):
            for count in counts:
                torch.set_num_threads(count)
                begun = clock()
                step()
                found[count].append(clock() - begun)
            if sum(map(sum, found.values())) > LIMIT:
                break
    return {count: median(seconds[1:] or seconds) for count, seconds in found.items()}
