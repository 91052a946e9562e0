"""Axes of a report's charts: from figures to positions in an SVG, and where the ticks stand."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """Maps ``low..high`` to ``start..end`` in the SVG's units, evenly or, with ``log``, by factors."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The position of a value, rounded to what can be seen."""
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)

    def ticks(self, count: int = 5) -> list[tuple[float, str]]:
        """Positions and labels of round values, about ``count`` of them."""
        values = log_steps(self.low, self.high) if self.log else steps(self.low, self.high, count)
        digits = max((decimals(value) for value in values), default=0)
        return [(self(value), f"{value:,.{digits}f}") for value in values]


def steps(low: float, high: float, count: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within ``low..high``, about ``count`` of them."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.999 * raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def log_steps(low: float, high: float) -> list[float]:
    """Values 1, 2 and 5 times a power of ten within ``low..high``; evenly spread ones if those are too few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [round(factor * 10.0**power, 12) for power in powers for factor in (1, 2, 5)]
    inside = [value for value in values if low <= value <= high]
    return inside if len(inside) >= 2 else steps(low, high, 4)


def decimals(value: float) -> int:
    """How many digits behind the point a tick needs, six at most."""
    return next((digits for digits in range(6) if math.isclose(round(value, digits), value, abs_tol=1e-9)), 6)


def widen(low: float, high: float, share: float = 0.06) -> tuple[float, float]:
    """A range with room on both sides, and of some width even around a single value."""
    room = share * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room
