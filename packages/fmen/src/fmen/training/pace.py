"""How fast a run is, and how long it still takes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fmen.training.stages import Stage

FIRST_STEPS = 5
"""Steps that are not measured: they compile the network, measure cuDNN's algorithms, or fill caches."""

ENOUGH = 5
"""Measured steps from which a rate is told."""


class Pace:
    """The rate of the last 200 steps of a stage, without its first ones and without pauses."""

    def __init__(self) -> None:
        self.times: deque[float] = deque(maxlen=200)
        self.begin_stage()

    def begin_stage(self) -> None:
        """Start over: steps of another size take another time."""
        self.times.clear()
        self.unmeasured = FIRST_STEPS
        self.last = time.perf_counter()

    def tick(self) -> None:
        """Count a step that ends now."""
        now = time.perf_counter()
        if self.unmeasured:
            self.unmeasured -= 1
        else:
            self.times.append(now - self.last)
        self.last = now

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the block's time."""
        begun = time.perf_counter()
        yield
        self.last += time.perf_counter() - begun

    def rate(self) -> float | None:
        """Return steps per second, or None before enough steps were measured."""
        return len(self.times) / sum(self.times) if len(self.times) >= ENOUGH else None

    def remaining(self, stages: Sequence[Stage], stage: Stage, step: int) -> float | None:
        """Return the seconds from ``step`` to the end of the last stage, or None before there is a rate.

        Steps of other stages are taken to last in proportion to their pixels.
        """
        rate = self.rate()
        if rate is None:
            return None
        left = (each.pixels * (each.stop - max(step, each.start)) for each in stages if each.stop > step)
        return sum(left) / stage.pixels / rate


def in_words(seconds: float) -> str:
    """Return a duration in the units that people plan with, such as ``52 min`` or ``3 h 20 min``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} days {minutes % 1440 // 60} h"
