"""Networks as discs: runtime against memory, as in Figure 1 of the FMEN paper, and against PSNR where it is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fmen.charts.style import (
    ACCENT,
    FORMATS,
    GUEST,
    INK,
    OTHERS,
    PAPER,
    QUIET,
    add_axes,
    chart_style,
    inline_svg,
    new_figure,
    save_figure,
)
from fmen.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

MIB = 2**20
NEAR = 10.0
"""Distance from a disc, in points, within which its label has no connecting line."""

LEGEND = (0.2, 0.5, 0.9)
"""Millions of parameters that the legend shows."""


@dataclass(frozen=True)
class Network:
    """A network in the chart.

    Attributes:
        model: Its name; names that begin with ``fmen`` are highlighted.
        title: The label.
        params: Number of parameters.
        runtime_ms: Median runtime.
        memory_bytes: Peak memory.
        psnr: In dB, or None if it was not measured.
        dataset: The dataset of the PSNR.
        guest: Whether it comes from a source file of the user.
    """

    model: str
    title: str
    params: int
    runtime_ms: float
    memory_bytes: int
    psnr: float | None = None
    dataset: str = ""
    guest: bool = False

    @property
    def color(self) -> str:
        """FMEN and the user's networks differ from the others."""
        if self.model.startswith("fmen"):
            return ACCENT
        return GUEST if self.guest else OTHERS

    @property
    def note(self) -> str:
        """The figures in words."""
        memory = f"{self.memory_bytes / MIB:.1f} MiB"
        return f"{self.title}: {self.runtime_ms:.1f} ms, {memory}, {self.params / 1e6:.3f} M parameters"


class Circle(NamedTuple):
    """Center and radius of a disc in the figure's pixels."""

    x: float
    y: float
    radius: float

    def nearest(self, box: Bbox) -> tuple[float, float]:
        """Return the point of a box that is nearest to the center."""
        return min(max(self.x, box.x0), box.x1), min(max(self.y, box.y0), box.y1)

    def distance(self, box: Bbox) -> float:
        """Return the distance of the center from a box."""
        return math.dist(self.nearest(box), (self.x, self.y))


def check_plot(file: Path) -> None:
    """Check the name of a plot before the measurements.

    Raises:
        UserError: The file has none of the known suffixes.
    """
    if file.suffix.lower() not in FORMATS:
        raise UserError(f"--plot {file}: end the name in one of {', '.join(FORMATS)}")


def save_networks(rows: Sequence[Network], conditions: str, file: Path) -> None:
    """Write the chart of ``fmen bench --plot``.

    Args:
        rows: The networks.
        conditions: How they were measured; written below the chart.
        file: PNG, PDF or SVG, by its suffix.
    """
    save_figure(draw_networks(rows, conditions=conditions.split("; complexity")[0]), file)


def inline_networks(rows: Sequence[Network], name: str, width: float) -> str:
    """Return the chart of runtime and memory as an ``<svg>`` element, with a tooltip for each network."""
    narrow = width < 500
    figure = draw_networks(rows, width=width, height=500 if narrow else 470, size=12 if narrow else 13, accuracy=False)
    label = "Runtime against peak memory; the area of a disc shows the number of parameters"
    return inline_svg(figure, name, label, {f"network-{row.model}": row.note for row in rows})


def draw_networks(
    rows: Sequence[Network],
    *,
    width: float = 518,
    height: float = 400,
    size: float = 10,
    accuracy: bool = True,
    conditions: str = "",
) -> Figure:
    """Draw one disc per network, with its name beside it.

    Args:
        rows: The networks.
        width, height: Of a panel in points.
        size: Font size in points.
        accuracy: Whether a second panel shows PSNR against runtime, if at least two networks have one.
        conditions: A line below the chart.
    """
    measured = [row for row in rows if row.psnr is not None]
    count = 2 if accuracy and len(measured) >= 2 else 1
    area = 600 + 1.4 * width  # of the square around a disc of a million parameters, in square points
    with chart_style(size):
        figure = new_figure(count * width, height)
        figure.supxlabel(conditions, fontsize=0.7 * size, color=QUIET)
        memory = add_axes(figure, (1, count, 1))
        panels = [(memory, rows, draw_discs(memory, rows, memory_mib, area))]
        memory.set_ylabel("Peak memory [MiB]")
        memory.set_ylim(0, 1.12 * max(*map(memory_mib, rows), 1.0))
        if count == 2:
            axes = add_axes(figure, (1, 2, 2))
            panels.append((axes, measured, draw_discs(axes, measured, psnr_db, area)))
            axes.set_ylabel("PSNR on RGB [dB]")
            axes.margins(y=0.14)
            datasets = ", ".join(sorted({row.dataset for row in measured}))
            memory.set_title("Runtime, memory and parameters")
            axes.set_title(f"Accuracy on {datasets}")
        add_legend(figure, memory, area, size)
        for axes, shown, _ in panels:  # room on the right for a name
            axes.set_xlim(0, (1.05 + 100 / width) * max(row.runtime_ms for row in shown))
        figure.draw_without_rendering()  # fixes the layout, which the places of the labels depend on
        figure.set_layout_engine("none")
        for axes, shown, discs in panels:
            axes.autoscale(False)  # lines to labels must not move the axes
            label_discs(axes, shown, discs, size)
    return figure


def memory_mib(row: Network) -> float:
    """Return the peak memory in MiB."""
    return row.memory_bytes / MIB


def psnr_db(row: Network) -> float:
    """Return the PSNR of a network that has one."""
    assert row.psnr is not None
    return row.psnr


def draw_discs(
    axes: Axes, rows: Sequence[Network], height: Callable[[Network], float], area: float
) -> list[PathCollection]:
    """Draw the discs, the smaller ones in front, and return them in the order of ``rows``."""
    axes.set_xlabel("Runtime [ms]")
    return [
        axes.scatter(
            row.runtime_ms,
            height(row),
            s=area * row.params / 1e6,
            color=row.color,
            alpha=0.8,
            edgecolor=PAPER,
            zorder=3 + 1 / (1 + row.params),
            gid=f"network-{row.model}",
        )
        for row in rows
    ]


def add_legend(figure: Figure, axes: Axes, area: float, size: float) -> None:
    """Add a legend above the panels: areas and numbers of parameters."""
    discs: list[Any] = [axes.scatter([], [], s=area * millions, color=OTHERS, alpha=0.8) for millions in LEGEND]
    labels = [f"{millions} M" for millions in LEGEND[:-1]] + [f"{LEGEND[-1]} M parameters"]
    tall = math.sqrt(area * LEGEND[-1]) / size
    figure.legend(
        discs,
        labels,
        loc="outside upper right",
        ncols=3,
        borderpad=0.8,
        handleheight=tall,
        handlelength=tall,
        labelcolor=QUIET,
    )


def label_discs(axes: Axes, rows: Sequence[Network], discs: Sequence[PathCollection], size: float) -> None:
    """Write each network's name beside its disc, clear of all discs and names."""
    circles = [circle(axes, disc) for disc in discs]
    attempts: list[tuple[float, list[Text]]] = []
    for apart, distance in itertools.product((True, False), (0.015, 0.03, 0.05)):
        texts = allocate_labels(axes, rows, discs, size, apart, distance)
        attempts.append((covered(texts, circles), texts))
        if attempts[-1][0] < 1:  # less than a pixel
            break
    chosen = min(attempts, key=lambda attempt: attempt[0])[1]
    for text in itertools.chain.from_iterable(texts for _, texts in attempts if texts is not chosen):
        text.remove()
    for row, text, disc in zip(rows, chosen, circles, strict=True):
        text.set_gid(f"label-{row.model}")
        connect(axes, text, disc, row.color)


def circle(axes: Axes, disc: PathCollection) -> Circle:
    """Return the place of a disc in pixels."""
    figure = axes.get_figure()
    assert figure is not None
    x, y = axes.transData.transform(np.asarray(disc.get_offsets())[0])
    return Circle(float(x), float(y), math.sqrt(float(disc.get_sizes()[0])) / 2 * figure.dpi / 72)


def allocate_labels(
    axes: Axes, rows: Sequence[Network], discs: Sequence[PathCollection], size: float, apart: bool, distance: float
) -> list[Text]:
    """Let textalloc place the names.

    Args:
        axes: The panel.
        rows: The networks.
        discs: Their discs.
        size: Font size in points.
        apart: Whether no line from a disc to its name may cross another line or name.
        distance: Smallest distance of a name from a disc's center, as a share of the panel.
    """
    import textalloc

    x, y = np.concatenate([np.asarray(disc.get_offsets()) for disc in discs]).T
    together = axes.scatter(x, y, s=[float(disc.get_sizes()[0]) for disc in discs])
    highlighted = [row.color != OTHERS for row in rows]
    allocated: Any = textalloc.allocate(
        axes,
        x,
        y,
        [row.title for row in rows],
        x_scatter=x,
        y_scatter=y,
        scatter_plot=together,
        textsize=size,
        fontweight=["bold" if bold else "normal" for bold in highlighted],
        textcolor=[row.color if bold else INK for row, bold in zip(rows, highlighted, strict=True)],
        margin=0.004,
        min_distance=distance,
        max_distance=0.25,
        nbr_candidates=400,
        avoid_label_lines_overlap=apart,
        avoid_crossing_label_lines=apart,
        zorder=6,
    )
    _, _, texts, lines = allocated
    for artist in (together, *filter(None, lines)):  # connect() draws the lines, from the edges of the discs
        artist.remove()
    return list(texts)


def covered(texts: Sequence[Text], circles: Sequence[Circle]) -> float:
    """Return how many pixels of labels cover other labels or discs."""
    boxes = [text.get_window_extent() for text in texts]
    total = sum(max(0.0, disc.radius - disc.distance(box)) for box in boxes for disc in circles)
    for index, box in enumerate(boxes):
        for other in boxes[:index]:
            width, height = min(box.x1, other.x1) - max(box.x0, other.x0), min(box.y1, other.y1) - max(box.y0, other.y0)
            total += max(0.0, min(width, height))
    return total


def connect(axes: Axes, text: Text, disc: Circle, color: str) -> None:
    """Draw a line from a disc's edge to its label, where that is not beside it."""
    figure = axes.get_figure()
    assert figure is not None
    box = text.get_window_extent()
    distance = disc.distance(box)
    if distance <= disc.radius + NEAR * figure.dpi / 72:
        return
    near, share = disc.nearest(box), disc.radius / distance
    edge = disc.x + share * (near[0] - disc.x), disc.y + share * (near[1] - disc.y)
    ends = axes.transData.inverted().transform([edge, near])
    axes.plot(ends[:, 0], ends[:, 1], color=color, linewidth=0.8, zorder=2)
