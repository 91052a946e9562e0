"""A benchmark's curve as a picture that is readable at a width of 700 pixels."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#c2410c", "#64748b", "#0f766e", "#7c3aed", "#b45309", "#0369a1", "#be185d", "#4d7c0f", "#1f2937")
MARKERS = "os^Dv<>Ph"
INK, GRID = "#1f2937", "#e5e7eb"
DECADES = 30.0
"""An axis whose largest value is so many times its smallest is drawn logarithmically."""


def spans_decades(values: Sequence[float]) -> bool:
    """Whether equal steps on the axis should be equal ratios."""
    return min(values) > 0 and max(values) / min(values) >= DECADES


def plain(value: float, _place: object = None) -> str:
    """A tick's label: 10,000 and 0.01, and no powers of ten between them."""
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"


def draw(title: str, curve: Mapping[str, Any], file: Path) -> None:
    """Write one plot.

    Args:
        title: Stands above it.
        curve: ``x`` and ``y``, the names of the axes, and ``lines``: a name and points ``[x, y]`` each.
        file: A PNG file.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    style = {
        "font.size": 10,
        "axes.edgecolor": INK,
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "savefig.dpi": 200,
    }
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
        for place, (name, points) in enumerate(curve["lines"].items()):
            colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
            axes.plot(*zip(*points, strict=True), label=name, color=colour, marker=marker, markersize=5, linewidth=1.8)
        arrange(axes, curve)
        axes.set_title("\n".join(textwrap.wrap(title, 62)), loc="left", fontsize=11, fontweight="bold")
        if len(curve["lines"]) > 1:
            axes.legend(frameon=False, fontsize=9)
        figure.savefig(file, metadata={"Software": None})
        pyplot.close(figure)


def arrange(axes: Axes, curve: Mapping[str, Any]) -> None:
    """Scales, ticks, names and grid."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    xs, ys = (sorted({point[side] for line in curve["lines"].values() for point in line}) for side in (0, 1))
    axes.set(xlabel=curve["x"], ylabel=curve["y"])
    if spans_decades(xs):
        axes.set_xscale("log")
    if len(xs) <= 8:  # the measured places themselves
        axes.xaxis.set_major_locator(FixedLocator(xs))
        axes.xaxis.set_minor_locator(NullLocator())
    if spans_decades(ys):
        axes.set_yscale("log")
        if ys[-1] / ys[0] < 1000:
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(bottom=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(plain))
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
