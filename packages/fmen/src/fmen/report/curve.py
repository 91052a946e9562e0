"""The training curve of a report: loss and PSNR against the step, as geometry that the template draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fmen.report.axes import Axis, widen
from fmen.report.inputs import Logged

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 468, 16, 258
"""The plot within the drawing."""

POINTS = 400
"""A longer line is thinned to so many points, each the mean of its share of the line."""

SHOWN_DB = 3.0
"""The PSNR axis begins at most so far below the best value: the first values of a run would flatten all others."""

STEEP = 0.02
"""The share of a run whose losses may lie above the axis, for the same reason."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        points: ``x,y x,y ...`` as SVG has it.
        strong: Whether it is the one to look at.
    """

    points: str
    strong: bool = True


@dataclass(frozen=True)
class Mark:
    """A value that stands out, with what is written beside it; ``anchor`` says on which side the text lies."""

    x: float
    y: float
    text: str
    anchor: str


@dataclass(frozen=True)
class Curve:
    """One quantity against the step."""

    title: str
    summary: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: tuple[Line, ...]
    dots: tuple[Point, ...] = ()
    mark: Mark | None = None


def draw_curves(log: Sequence[Logged], *, loss: str = "", protocol: str = "") -> list[Curve]:
    """The loss and the PSNR, of which either may be missing.

    Args:
        log: The run's lines, by step.
        loss: The name of the loss, for the title.
        protocol: How PSNR was measured, for the title.
    """
    losses = [(line.step, line.loss) for line in log if line.loss is not None and line.loss > 0]
    psnrs = [(line.step, line.psnr) for line in log if line.psnr is not None and math.isfinite(line.psnr)]
    last = max(line.step for line in log)
    curves = []
    if losses:
        curves.append(draw_loss(losses, last, f"Training loss ({loss})" if loss else "Training loss"))
    if psnrs:
        curves.append(draw_psnr(psnrs, last, f"Validation PSNR in dB ({protocol})" if protocol else "PSNR in dB"))
    return curves


def draw_loss(values: Sequence[Point], last: int, title: str) -> Curve:
    """The loss on a logarithmic axis: as it was logged, faint, and smoothed."""
    x = Axis(0, last, LEFT, RIGHT)
    highest = max(value for step, value in values if step >= min(STEEP * last, values[-1][0]))
    start = next(index for index, (_, value) in enumerate(values) if value <= highest)
    shown = values[start:]
    lowest = min(value for _, value in shown)
    room = (highest / lowest) ** 0.06 if highest > lowest else 1.1
    y = Axis(lowest / room, highest * room, BOTTOM, TOP, log=True)
    lines = (Line(path(thin(shown), x, y), strong=False), Line(path(thin(smooth(shown)), x, y)))
    summary = f"{title}: from {values[0][1]:.3g} at step {values[0][0]:,} to {values[-1][1]:.3g} at step {last:,}"
    return Curve(title, summary, x.ticks(), y.ticks(), lines)


def draw_psnr(values: Sequence[Point], last: int, title: str) -> Curve:
    """The PSNR, with its best value marked."""
    best_step, best = max(values, key=lambda point: point[1])
    lowest = min(value for _, value in values)
    bottom, top = widen(max(lowest, best - SHOWN_DB), best, 0.1)
    x, y = Axis(0, last, LEFT, RIGHT), Axis(bottom, top, BOTTOM, TOP)
    dots = tuple((x(step), y(value)) for step, value in values if value >= bottom) if len(values) <= 60 else ()
    at = x(best_step)
    mark = Mark(at, y(best), f"{best:.2f} dB", "end" if at > (LEFT + RIGHT) / 2 else "start")
    summary = f"{title}: best {best:.2f} at step {best_step:,}, last {values[-1][1]:.2f} at step {values[-1][0]:,}"
    return Curve(title, summary, x.ticks(), y.ticks(), (Line(path(thin(values), x, y)),), dots, mark)


def smooth(values: Sequence[Point], share: float = 0.04) -> list[Point]:
    """Each value's geometric mean with its neighbours: a window of that share of the line.

    At the beginning, where the line is steep, it is shorter on both sides; at the end only on the side that is missing.
    """
    reach = max(1, round(len(values) * share / 2))
    smoothed = []
    for index, (step, _) in enumerate(values):
        near = min(reach, index)
        window = values[index - near : index + near + 1]
        smoothed.append((step, math.exp(sum(math.log(value) for _, value in window) / len(window))))
    return smoothed


def thin(values: Sequence[Point]) -> Sequence[Point]:
    """At most :data:`POINTS` points; the last one stays what it is."""
    if len(values) <= POINTS:
        return values
    size = math.ceil(len(values) / POINTS)
    parts = [values[start : start + size] for start in range(0, len(values) - 1, size)]
    return [*((part[len(part) // 2][0], sum(value for _, value in part) / len(part)) for part in parts), values[-1]]


def path(values: Sequence[Point], x: Axis, y: Axis) -> str:
    """Points as SVG has them."""
    return " ".join(f"{x(step):g},{y(value):g}" for step, value in values)
