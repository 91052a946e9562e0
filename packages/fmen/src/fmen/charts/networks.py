"""The benchmark as a figure: Figure 1 of the FMEN paper, and PSNR against runtime where PSNR is known.

Needs matplotlib, which ``pip install 'fmen[plot]'`` brings along.
"""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from fmen.errors import UserError
from fmen_data.atomic import atomic_write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

FORMATS = (".png", ".pdf", ".svg")
MIB = 2**20
DISC = 1100.0
"""Area in square points of a disc that stands for a million parameters."""

OURS, THEIRS, GUEST = "#c2410c", "#64748b", "#0f766e"
INK, GRID = "#1f2937", "#e5e7eb"


@dataclass(frozen=True)
class Network:
    """A network in the figure.

    Attributes:
        model: Its name; names that begin with ``fmen`` stand out.
        title: The label.
        params: Number of parameters.
        runtime_ms: Median runtime.
        memory_bytes: Peak memory.
        psnr: In dB, or None if it was not measured.
        dataset: What PSNR was measured on.
        guest: Whether it came from a source file of the user's.
    """

    model: str
    title: str
    params: int
    runtime_ms: float
    memory_bytes: int
    psnr: float | None = None
    dataset: str = ""
    guest: bool = False


class Disc(NamedTuple):
    """Centre and radius of a network's disc in the figure's pixels."""

    x: float
    y: float
    radius: float


Point: TypeAlias = tuple[float, float]


def needs_matplotlib(file: Path) -> None:
    """Notice before the measurements that they could not be drawn.

    Raises:
        UserError: matplotlib is missing, or the file has none of the known suffixes.
    """
    if file.suffix.lower() not in FORMATS:
        raise UserError(f"--plot {file}: end the name in one of {', '.join(FORMATS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("--plot needs matplotlib: pip install 'fmen[plot]'")


def draw(rows: Sequence[Network], conditions: str, file: Path) -> None:
    """Write the figure.

    Args:
        rows: The networks. If at least two have a PSNR, a second panel shows it against runtime.
        conditions: A line on how it was measured, for the foot.
        file: PNG, PDF or SVG, by its suffix.
    """
    import matplotlib

    # The plain canvas: no window is opened, whatever the machine is set to.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    accurate = [row for row in rows if row.psnr is not None]
    panels = 2 if len(accurate) >= 2 else 1
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 10, "svg.fonttype": "none"}):
        figure = Figure(figsize=(7.2 * panels, 5.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, panels, squeeze=False)[0]
        figure.supxlabel(conditions.split("; complexity")[0], fontsize=7, color=THEIRS)
        panel(axes[0], rows, memory_mib, "Peak memory [MiB]", "Runtime, memory and parameters")
        axes[0].set_ylim(0, 1.12 * max(memory_mib(row) for row in rows))
        if panels == 2:
            panel(axes[1], accurate, psnr_db, "PSNR on RGB [dB]", f"Accuracy on {dataset_name(accurate)}")
        legend(axes[0])
        figure.draw_without_rendering()  # the labels' places depend on the final layout
        figure.set_layout_engine("none")
        for axis, shown, height in zip(axes, (rows, accurate), (memory_mib, psnr_db), strict=False):
            place_labels(figure, axis, shown, height)
        content = io.BytesIO()
        figure.savefig(content, format=file.suffix[1:].lower(), dpi=200)
    atomic_write_bytes(file, content.getvalue())


def memory_mib(row: Network) -> float:
    """Measured peak memory."""
    return row.memory_bytes / MIB


def psnr_db(row: Network) -> float:
    """PSNR, of a row that has one."""
    assert row.psnr is not None
    return row.psnr


def dataset_name(rows: Sequence[Network]) -> str:
    """Of rows that were measured on one."""
    return ", ".join(sorted({row.dataset for row in rows if row.psnr is not None}))


def panel(axis: Axes, rows: Sequence[Network], height: Callable[[Network], float], label: str, title: str) -> None:
    """One disc per network, large ones behind."""
    for row in sorted(rows, key=lambda row: -row.params):
        axis.scatter(
            row.runtime_ms,
            height(row),
            s=DISC * row.params / 1e6,
            color=color(row),
            alpha=0.75,
            edgecolor="white",
            linewidth=1,
            zorder=3,
        )
    axis.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axis.set_xlabel("Runtime [ms]", color=INK)
    axis.set_ylabel(label, color=INK)
    axis.margins(0.12)
    axis.set_xlim(0, 1.12 * max(row.runtime_ms for row in rows))
    axis.grid(color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=INK, length=0)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color(THEIRS)


def color(row: Network) -> str:
    """FMEN stands out, and so does a network that is not of this project."""
    if row.model.startswith("fmen"):
        return OURS
    return GUEST if row.guest else THEIRS


def legend(axis: Axes) -> None:
    """What the discs' areas stand for."""
    handles = [axis.scatter([], [], s=DISC * millions, color=THEIRS, alpha=0.4) for millions in (0.2, 0.5, 0.9)]
    axis.legend(
        handles,
        ["0.2 M", "0.5 M", "0.9 M"],
        title="Parameters",
        loc="lower right",
        ncols=3,
        frameon=False,
        handlelength=2.4,
        handleheight=2.8,
        handletextpad=0.6,
        columnspacing=1.4,
        labelcolor=INK,
    )


def place_labels(figure: Figure, axis: Axes, rows: Sequence[Network], height: Callable[[Network], float]) -> None:
    """Write each network's name beside its disc, where it covers neither a disc nor another name."""
    points = figure.dpi / 72
    renderer: Any = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    discs = []
    for row in rows:
        x, y = axis.transData.transform((row.runtime_ms, height(row)))
        discs.append(Disc(float(x), float(y), math.sqrt(DISC * row.params / 1e6 / math.pi) * points))
    guide = axis.get_legend()
    taken: list[Bbox] = [] if guide is None else [guide.get_window_extent(renderer)]
    leads: list[list[Point]] = []
    inside = axis.get_window_extent(renderer)
    to_data = axis.transData.inverted().transform
    for row, disc in sorted(zip(rows, discs, strict=True), key=lambda pair: pair[1].radius):
        emphasis = "bold" if color(row) != THEIRS else "normal"
        text = axis.text(row.runtime_ms, height(row), row.title, fontsize=9, zorder=5)
        text.set(fontweight=emphasis, color=color(row))
        box = text.get_window_extent(renderer)

        def price(spot: tuple[Bbox, float], disc: Disc = disc) -> float:
            place, distance = spot
            line = lead(disc, place, points)
            crossed = sum(place.contains(x, y) for other in leads for x, y in other)
            crossed += sum(other.contains(x, y) for other in taken for x, y in line)
            crossed += sum(math.dist(point, other[:2]) < other.radius for other in discs for point in line)
            return distance + 1e4 * crossed + clash(place, discs, taken, inside)

        place = min(spots(disc, box.width, box.height, points), key=price)[0]
        # A text's position is where its first baseline starts, not the corner of its box.
        left, bottom = to_data((place.x0 + disc.x - box.x0, place.y0 + disc.y - box.y0))
        text.set_position((left, bottom))
        taken.append(place)
        line = lead(disc, place, points)
        if line:
            leads.append(line)
            ends = to_data([line[0], line[-1]])
            axis.plot(ends[:, 0], ends[:, 1], color=color(row), linewidth=0.7, zorder=2)


def spots(disc: Disc, width: float, height: float, points: float) -> list[tuple[Bbox, float]]:
    """Places around a disc for a label of that size, each with what it costs to be so far away."""
    from matplotlib.transforms import Bbox

    places = []
    for distance in (3.0, 10.0, 20.0, 32.0, 46.0, 62.0):
        for step in range(24):
            across, up = math.cos(2 * math.pi * step / 24), math.sin(2 * math.pi * step / 24)
            reach = disc.radius + distance * points
            left = disc.x + reach * across + (across - 1) / 2 * width
            bottom = disc.y + reach * up + (up - 1) / 2 * height
            places.append((Bbox.from_bounds(left, bottom, width, height), distance * points * 4 + abs(up) * points))
    return places


def clash(box: Bbox, discs: Sequence[Disc], taken: Sequence[Bbox], inside: Bbox) -> float:
    """How much a label would cover or leave the panel, far dearer than being far away."""
    covered = sum(overlap(box, other) for other in taken)
    for x, y, radius in discs:
        gap = math.hypot(max(box.x0 - x, 0, x - box.x1), max(box.y0 - y, 0, y - box.y1))
        covered += 60 * max(0.0, radius + 2 - gap)
    outside = float(box.width * box.height) - overlap(box, inside)
    return 10 * (covered + outside)


def lead(disc: Disc, box: Bbox, points: float) -> list[Point]:
    """Points along the line from a disc's edge to its label; none where the label lies too near to need a line."""
    near_x, near_y = min(max(disc.x, box.x0), box.x1), min(max(disc.y, box.y0), box.y1)
    distance = math.hypot(near_x - disc.x, near_y - disc.y)
    if distance < disc.radius + 8 * points:
        return []
    # From just outside the disc to just outside the label, so that neither counts as crossed by its own line.
    shares = [disc.radius / distance + 0.01 + step / 12 * (0.98 - disc.radius / distance) for step in range(13)]
    return [(disc.x + share * (near_x - disc.x), disc.y + share * (near_y - disc.y)) for share in shares]


def overlap(a: Bbox, b: Bbox) -> float:
    """The area that two boxes share."""
    width = float(min(a.x1, b.x1) - max(a.x0, b.x0))
    height = float(min(a.y1, b.y1) - max(a.y0, b.y0))
    return max(0.0, width) * max(0.0, height)
