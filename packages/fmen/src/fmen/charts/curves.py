"""Lines over an axis: the curves of a training run, and of a benchmark."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from fmen.charts.style import ACCENT, INK, OTHERS, PAPER, add_axes, chart_style, new_figure, thousands

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = tuple[float, float]

COLORS = (ACCENT, OTHERS, "#0f766e", "#7c3aed", "#b45309", "#0369a1", "#be185d", "#4d7c0f", INK)
MARKERS = "os^Dv<>Ph"

POINTS = 400
"""A longer line is reduced to about this many points, each the mean of a part of the line."""

SHOWN_DB = 3.0
"""The PSNR axis starts at most this far below the best value, so that the first values do not flatten the curve."""

STEEP = 0.02
"""Share of a run whose losses may be above the axis, for the same reason."""

DECADES = 30.0
"""An axis is logarithmic if its largest value is at least this many times its smallest."""


def draw_loss(points: Sequence[Point], *, width: float = 480, height: float = 300, size: float = 13) -> Figure:
    """Draw the loss by step on a logarithmic axis: as logged, faint, and smoothed.

    Args:
        points: ``(step, loss)`` by step; positive losses.
        width, height: In points.
        size: Font size in points.
    """
    steps, losses = np.asarray(points, float).T
    late = losses[steps >= min(STEEP * steps[-1], steps[-1])]
    first = int(np.argmax(losses <= late.max()))
    shown = list(zip(steps[first:], losses[first:], strict=True))
    with chart_style(size):
        figure, axes = step_axes(width, height, float(steps[-1]))
        for line, strong in ((thin(shown), False), (thin(smooth(shown)), True)):
            axes.plot(*zip(*line, strict=True), color=ACCENT, linewidth=2 if strong else 1, alpha=1 if strong else 0.35)
        axes.set_yscale("log")
        name_log_ticks(axes)
    return figure


def draw_psnr(
    points: Sequence[Point],
    *,
    title: str = "",
    name: str = "",
    width: float = 480,
    height: float = 300,
    size: float = 13,
) -> Figure:
    """Draw the PSNR by step, with its best value marked.

    Args:
        points: ``(step, dB)`` by step.
        title: Written above the chart.
        name: Written beside the PSNR axis.
        width, height: In points.
        size: Font size in points.
    """
    steps, values = np.asarray(points, float).T
    best = int(values.argmax())
    bottom = max(values.min(), values[best] - SHOWN_DB)
    room = values[best] - bottom or 0.05 * abs(values[best]) or 1.0
    with chart_style(size):
        figure, axes = step_axes(width, height, float(steps[-1]))
        line = axes.plot(*zip(*thin(points), strict=True), color=ACCENT, linewidth=2)[0]
        if len(points) <= 60:
            line.set(marker="o", markersize=4.4)
        axes.set_ylim(bottom - 0.1 * room, values[best] + 0.25 * room)
        axes.set(title=title, ylabel=name)
        axes.plot(
            steps[best],
            values[best],
            "o",
            color=PAPER,
            markeredgecolor=ACCENT,
            markeredgewidth=2,
            markersize=9,
            clip_on=False,  # the best step is often the last one, at the edge
        )
        # Nothing of the curve is above its best value.
        side = "right" if steps[best] > steps[-1] / 2 else "left"
        axes.annotate(
            f"{values[best]:.2f} dB",
            (steps[best], values[best]),
            xytext=(0, 9),
            textcoords="offset points",
            ha=side,
            va="bottom",
            fontweight="bold",
        )
    return figure


def draw_runs(
    lines: Mapping[str, Sequence[Point]],
    *,
    logarithmic: bool = False,
    shown: float = math.inf,
    width: float = 480,
    height: float = 300,
    size: float = 13,
) -> Figure:
    """Draw a value of one or more runs by step, each run in a color of its own.

    Args:
        lines: ``(step, value)`` by step, by the name of the run.
        logarithmic: Draw the values, which are positive, on a logarithmic axis.
        shown: The axis starts at most this far below the largest value.
        width, height: In points.
        size: Font size in points.
    """
    with chart_style(size):
        figure, axes = step_axes(width, height, max(points[-1][0] for points in lines.values()))
        for color, (name, points) in zip(cycle(COLORS), lines.items(), strict=False):
            marker = "o" if len(points) == 1 else None
            axes.plot(*zip(*thin(points), strict=True), label=name, color=color, linewidth=2, marker=marker)
        if logarithmic:
            axes.set_yscale("log")
            name_log_ticks(axes)
        low, largest = axes.get_ylim()[0], max(value for points in lines.values() for _, value in points)
        axes.set_ylim(bottom=max(low, largest - shown))
        if len(lines) > 1:  # outside the axes, where it covers no line
            figure.legend(loc="outside lower left", fontsize=0.85 * size)
    return figure


def draw_lines(
    title: str, x: str, y: str, lines: Mapping[str, Sequence[Sequence[float]]], *, bottom: float = 0.0
) -> Figure:
    """Draw the curves of a benchmark, readable at a width of 700 pixels.

    Args:
        title: Written above the chart.
        x, y: Names of the axes.
        lines: Points ``[x, y]`` by the name of the line.
        bottom: Where a linear y axis starts.
    """
    with chart_style():
        figure = new_figure(504, 310)
        axes = add_axes(figure)
        for place, (name, points) in enumerate(lines.items()):
            color, marker = COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)]
            axes.plot(*zip(*points, strict=True), label=name, color=color, marker=marker, markersize=5, linewidth=1.8)
        axes.set(xlabel=x, ylabel=y)
        scale_axes(
            axes, *([point[side] for line in lines.values() for point in line] for side in (0, 1)), bottom=bottom
        )
        if len(lines) > 1:  # above the axes, where it covers no line
            figure.legend(loc="outside lower left", ncols=3, fontsize=9)
        axes.set_title("\n".join(textwrap.wrap(title, 62)), fontsize=11)
    return figure


def step_axes(width: float, height: float, last: float) -> tuple[Figure, Axes]:
    """Return a figure and its axes, with training steps from 0 to ``last`` along the bottom."""
    figure = new_figure(width, height)
    axes = add_axes(figure)
    axes.set(xlabel="step", xlim=(0, last))
    axes.xaxis.set_major_formatter(thousands)
    axes.locator_params(axis="x", nbins=5)
    return figure, axes


def scale_axes(axes: Axes, xs: Sequence[float], ys: Sequence[float], *, bottom: float) -> None:
    """Choose linear or logarithmic axes, and their ticks; a linear y axis starts at ``bottom``."""
    from matplotlib.ticker import FixedLocator, NullLocator

    if spans_decades(xs):
        axes.set_xscale("log")
    if len(set(xs)) <= 8:  # a tick at every measured place
        axes.xaxis.set_major_locator(FixedLocator(sorted(set(xs))))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(thousands)
    if spans_decades(ys):
        axes.set_yscale("log")
        name_log_ticks(axes)
    else:
        axes.set_ylim(bottom, max(ys) + 0.05 * (max(ys) - bottom) if bottom else None)
        axes.yaxis.set_major_formatter(thousands)


def spans_decades(values: Sequence[float]) -> bool:
    """Return whether equal distances on the axis are equal ratios."""
    return min(values) > 0 and max(values) / min(values) >= DECADES


def name_log_ticks(axes: Axes) -> None:
    """Put ticks at 1, 2 and 5 times the powers of ten, or at powers alone where those are many."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    low, high = axes.get_ylim()
    if high / low < 5:
        axes.yaxis.set_major_locator(MaxNLocator(4))
    else:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 1000 else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(thousands)


def smooth(points: Sequence[Point], share: float = 0.04) -> list[Point]:
    """Return the geometric mean of each value and its neighbors, in a window of a share of the line.

    At the start, where the line is steep, the window is shorter on both sides; at the end on the missing side only.
    """
    reach = max(1, round(len(points) * share / 2))
    logs = [math.log(value) for _, value in points]
    smoothed = []
    for index, (step, _) in enumerate(points):
        near = min(reach, index)
        window = logs[index - near : index + near + 1]
        smoothed.append((step, math.exp(sum(window) / len(window))))
    return smoothed


def thin(points: Sequence[Point]) -> Sequence[Point]:
    """Return at most about :data:`POINTS` points; the last one stays as it is."""
    if len(points) <= POINTS:
        return points
    size = math.ceil(len(points) / POINTS)
    parts = [points[start : start + size] for start in range(0, len(points) - 1, size)]
    return [*((part[len(part) // 2][0], sum(value for _, value in part) / len(part)) for part in parts), points[-1]]
