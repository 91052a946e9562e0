"""Runtime of networks against what is counted of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fmen.charts.curves import name_log_ticks
from fmen.charts.style import ACCENT, OTHERS, add_axes, chart_style, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_runtimes(
    runtimes_ms: Sequence[float], counted: Mapping[str, Sequence[float]], correlations: Mapping[str, float]
) -> Figure:
    """Draw one panel per quantity, with a point per network on logarithmic axes.

    Args:
        runtimes_ms: The runtime of each network.
        counted: The quantities by their names, in the order of the networks.
        correlations: The rank correlation of each with the runtime; the largest is emphasized.
    """
    best = max(correlations, key=lambda name: correlations[name])
    with chart_style():
        figure = new_figure(260 * len(counted), 250)
        for place, (name, values) in enumerate(counted.items(), 1):
            axes = add_axes(figure, (1, len(counted), place))
            axes.scatter(values, runtimes_ms, s=26, color=ACCENT if name == best else OTHERS)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel(name)
            axes.set_title(f"{name}: {correlations[name]:.3f}", fontsize=10)
            axes.xaxis.set_major_formatter(lambda value, _position: compact(value))
            axes.xaxis.set_minor_formatter(lambda _value, _position: "")
            name_log_ticks(axes)
            if place == 1:
                axes.set_ylabel("runtime [ms]")
    return figure


def compact(value: float) -> str:
    """Format a count: ``100K``, ``20M``, ``3G``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
