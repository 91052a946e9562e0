"""Figure 1 of the FMEN paper in a report: runtime against memory, disc area by parameters, as geometry."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fmen.report.axes import Axis
from fmen.report.inputs import Benched

MIB = 2**20
HEIGHT = 470
LEFT, TOP, BOTTOM = 52, 62, 426
"""The plot within the drawing; above it stand the y axis's title and the legend."""

KEY = (0.2, 0.5, 0.9)
"""Millions of parameters that the legend shows."""

KEY_TEXT = 44
"""Room for their names."""

LETTER = 7.4
"""Width that a letter of a label takes at most, on average, at the 13 units that labels are set in."""

TALL = 15.0


class Box(NamedTuple):
    """A rectangle."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """The area that the two share."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)

    def gap(self, x: float, y: float) -> float:
        """How far away a point is; 0 inside."""
        return math.hypot(max(self.left - x, 0, x - self.right), max(self.top - y, 0, y - self.bottom))


@dataclass(frozen=True)
class Disc:
    """A network, and where its name stands.

    Attributes:
        x, y, radius: In the drawing's units.
        title: The network's name.
        note: All its figures in words.
        ours: Whether it is an FMEN.
        label: The box of the name.
        anchor: Which end of the name stands fast if a reader's font is wider than the box: the one at the disc.
        lead: A line from the disc to a name that stands farther off, or None.
    """

    x: float
    y: float
    radius: float
    title: str
    note: str
    ours: bool
    label: Box
    anchor: str
    lead: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class Scatter:
    """The figure; ``key`` holds the discs of its legend as ``(x, radius, text)``."""

    width: int
    right: int
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    discs: tuple[Disc, ...]
    key: tuple[tuple[float, float, str], ...]


def draw_scatter(rows: Sequence[Benched], titles: Mapping[str, str], *, width: int) -> Scatter:
    """Place discs and names.

    Args:
        rows: The networks.
        titles: What a figure calls them; a network that is not there is called by its own name.
        width: Of the drawing: a wide one for a desk, a narrow one for a phone.
    """
    right = width - 12
    x = Axis(0, 1.12 * max(row.runtime_ms for row in rows), LEFT, right)
    y = Axis(0, 1.12 * max(max(row.peak_memory_bytes for row in rows) / MIB, 1), BOTTOM, TOP)
    area = 1300 + width  # of a million parameters, in square units

    def radius(params: float) -> float:
        return round(math.sqrt(area * params / 1e6 / math.pi), 1)

    places = [(x(row.runtime_ms), y(row.peak_memory_bytes / MIB), radius(row.params)) for row in rows]
    names = [titles.get(row.model, row.model) for row in rows]
    labels = place_labels(places, names, Box(LEFT, TOP, right, BOTTOM))
    discs = [
        Disc(
            *place,
            name,
            describe(row, name),
            row.model.startswith("fmen"),
            label,
            anchor(place, label),
            lead(place, label),
        )
        for row, place, name, label in zip(rows, places, names, labels, strict=True)
    ]
    discs.sort(key=lambda disc: -disc.radius)  # the small ones in front
    key, end = [], float(right)
    for millions in reversed(KEY):
        size = radius(millions * 1e6)
        key.append((round(end - KEY_TEXT - size, 1), size, f"{millions} M"))
        end -= KEY_TEXT + 2 * size + 12
    return Scatter(width, right, x.ticks(4 if width < 500 else 7), y.ticks(), tuple(discs), tuple(key))


def describe(row: Benched, name: str) -> str:
    """A network's place in words."""
    memory = f"{row.peak_memory_bytes / MIB:.1f} MiB"
    return f"{name}: {row.runtime_ms:.1f} ms, {memory}, {row.params / 1e6:.3f} M parameters"


def place_labels(places: Sequence[tuple[float, float, float]], names: Sequence[str], inside: Box) -> list[Box]:
    """A box for each name, beside its disc, over no other name and as little of the discs as can be."""
    taken: dict[int, Box] = {}
    for index in sorted(range(len(places)), key=lambda index: places[index][2]):

        def price(spot: tuple[Box, float]) -> float:
            box, distance = spot
            outside = box.overlap(box) - box.overlap(inside)
            covered = sum(max(0.0, radius + 2 - box.gap(x, y)) for x, y, radius in places)
            return distance + 10 * outside + 60 * covered + 10 * sum(box.overlap(other) for other in taken.values())

        taken[index] = min(spots(places[index], LETTER * len(names[index])), key=price)[0]
    return [taken[index] for index in range(len(places))]


def spots(place: tuple[float, float, float], wide: float) -> Iterator[tuple[Box, float]]:
    """Boxes around a disc, each with what it costs to stand there: beside it rather than above it, and near."""
    x, y, radius = place
    for distance in (5, 11, 18, 30, 44, 60):
        for step in range(16):
            across, down = math.cos(math.pi * step / 8), math.sin(math.pi * step / 8)
            left = x + (radius + distance) * across + (across - 1) / 2 * wide
            top = y + (radius + distance) * down + (down - 1) / 2 * TALL
            yield Box(left, top, left + wide, top + TALL), 4 * distance + abs(down)


def anchor(place: tuple[float, float, float], label: Box) -> str:
    """``start`` for a name to the right of its disc, ``end`` to the left, ``middle`` above and below."""
    if label.left >= place[0]:
        return "start"
    return "end" if label.right <= place[0] else "middle"


def lead(place: tuple[float, float, float], label: Box) -> tuple[float, float, float, float] | None:
    """A line from a disc's edge to its name; none where the name is near enough."""
    x, y, radius = place
    near_x, near_y = min(max(x, label.left), label.right), min(max(y, label.top), label.bottom)
    distance = math.hypot(near_x - x, near_y - y)
    if distance < radius + 8:
        return None
    share = radius / distance
    return round(x + share * (near_x - x), 1), round(y + share * (near_y - y), 1), round(near_x, 1), round(near_y, 1)
