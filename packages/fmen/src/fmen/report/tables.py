"""The tables of a report: cells with what is shown, what is sorted by, and what stands out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import NamedTuple

from fmen.benchmark.run import BASELINE
from fmen.report.images import ComparedImage, Quality
from fmen.report.inputs import Benched, Validated

MIB = 2**20

HUGE = 1e6
"""From here on a figure is written with an exponent: the score of a slow network grows without bounds."""


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: What is shown.
        order: What the column is sorted by; None for words, which are sorted as they are.
        rank: The place in the column, 1 for the best; 0 for none in a column of places, None in other columns.
        note: A remark behind the figure.
        link: The id of the element that the cell leads to.
    """

    text: str
    order: float | None = None
    rank: int | None = None
    note: str = ""
    link: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a head and perhaps a last line that is not sorted; ``ours`` are the rows to highlight."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    foot: tuple[Cell, ...] = ()
    ours: frozenset[int] = frozenset()


class Column(NamedTuple):
    """A column of the challenge table."""

    title: str
    value: Callable[[Benched], float | None]
    digits: int
    higher_is_better: bool = False
    compared: bool = False


COLUMNS = (
    Column("PSNR [dB]", lambda row: row.psnr, digits=2, higher_is_better=True),
    Column("Params [M]", lambda row: row.params / 1e6, digits=3, compared=True),
    Column("FLOPs [G]", lambda row: row.flops / 1e9, digits=2, compared=True),
    Column("Acts [M]", lambda row: row.activations / 1e6, digits=2, compared=True),
    Column("Convs", lambda row: row.convs, digits=0),
    Column("Time [ms]", lambda row: row.runtime_ms, digits=1, compared=True),
    Column("Memory [MiB]", lambda row: row.peak_memory_bytes / MIB, digits=1, compared=True),
    Column("Score", lambda row: row.score, digits=2),
)


def challenge_table(rows: Sequence[Benched], titles: Mapping[str, str]) -> Table:
    """The networks, fastest first, ranked per column and in percent of the baseline where it takes part.

    Columns that no network has a figure for are left out.
    """
    rows = sorted(rows, key=lambda row: row.runtime_ms)
    columns = [column for column in COLUMNS if any(column.value(row) is not None for row in rows)]
    base = next((row for row in rows if row.model == BASELINE), None)
    body = tuple(
        (Cell(titles.get(row.model, row.model)), *(challenge_cell(column, row, rows, base) for column in columns))
        for row in rows
    )
    ours = frozenset(index for index, row in enumerate(rows) if row.model.startswith("fmen"))
    return Table(("Network", *(column.title for column in columns)), body, ours=ours)


def challenge_cell(column: Column, row: Benched, rows: Sequence[Benched], base: Benched | None) -> Cell:
    """A figure with its rank and its distance from the baseline."""
    figure = column.value(row)
    if figure is None:
        return Cell("–", math.inf, rank=0)
    sign = -1 if column.higher_is_better else 1
    figures = [value for value in map(column.value, rows) if value is not None]
    rank = 1 + sum(sign * value < sign * figure for value in figures)
    reference = column.value(base) if base and column.compared else None
    note = ""
    if reference:
        note = "±0%" if row is base else f"{100 * (figure / reference - 1):+.0f}%".replace("-", "−")
    text = f"{figure:,.{column.digits}f}" if figure < HUGE else f"{figure:.1e}"
    return Cell(text, figure, rank if len(figures) > 1 else None, note)


def validation_table(results: Mapping[str, Validated], titles: Mapping[str, str]) -> Table:
    """One line per validation, by the names of their files; what matters comes first, for a phone shows no more."""
    body = tuple(
        (
            Cell(name),
            decibels(result.mean.psnr),
            similarity(result.mean.ssim),
            Cell(result.protocol),
            Cell(str(len(result.images)), len(result.images)),
            Cell(f"{titles.get(result.model, result.model)} ×{result.scale}"),
            Cell(PurePath(result.weights).name),
        )
        for name, result in results.items()
    )
    return Table(("Result", "PSNR [dB]", "SSIM", "Protocol", "Images", "Network", "Weights"), body)


def per_image_table(result: Validated) -> Table:
    """One line per image of a validation, the means last."""
    body = tuple((Cell(image.name), decibels(image.psnr), similarity(image.ssim)) for image in result.images)
    foot = (Cell("mean"), decibels(result.mean.psnr), similarity(result.mean.ssim))
    return Table(("Image", "PSNR [dB]", "SSIM"), body, foot)


def comparison_table(images: Sequence[ComparedImage], title: str) -> Table:
    """Bicubic and ours on every image of the report, the means last; each line leads to its image."""
    mean_bicubic, mean_ours = mean([image.bicubic for image in images]), mean([image.ours for image in images])

    def figures(bicubic: Quality, ours: Quality) -> tuple[Cell, ...]:
        gain = ours.psnr - bicubic.psnr if math.isfinite(bicubic.psnr) else math.nan
        change = Cell("–", -math.inf) if math.isnan(gain) else Cell(f"{gain:+.2f}".replace("-", "−"), gain)
        ratios = similarity(bicubic.ssim), similarity(ours.ssim)
        return decibels(bicubic.psnr), decibels(ours.psnr), change, *ratios

    body = tuple(
        (
            Cell(image.name, link=f"image-{number}"),
            *figures(image.bicubic, image.ours),
            Cell(f"{image.width} × {image.height}", image.width * image.height),
        )
        for number, image in enumerate(images, 1)
    )
    head = ("Image", "Bicubic [dB]", f"{title} [dB]", "Gain [dB]", "Bicubic SSIM", f"{title} SSIM", "Size")
    return Table(head, body, (Cell("mean"), *figures(mean_bicubic, mean_ours), Cell("")))


def mean(qualities: Sequence[Quality]) -> Quality:
    """Plain means, as papers report them."""
    count = len(qualities)
    return Quality(sum(each.psnr for each in qualities) / count, sum(each.ssim for each in qualities) / count)


def decibels(value: float) -> Cell:
    """A PSNR; infinite where two images are the same."""
    return Cell("∞" if math.isinf(value) else f"{value:.2f}", value)


def similarity(value: float | None) -> Cell:
    """An SSIM, which may not have been measured."""
    return Cell("–", -math.inf) if value is None else Cell(f"{value:.4f}", value)
