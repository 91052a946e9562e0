"""The tables of a report, as cells with text, sort key, rank and remark, which the HTML template shows."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import NamedTuple

from fmen.benchmark.run import BASELINE
from fmen.report.encoding import Kind
from fmen.report.images import ComparedImage, Quality
from fmen.report.inputs import BenchRow, ValidationRow

MIB = 2**20

HUGE = 1e6
"""Figures from here on have an exponent; the score of a slow network has no upper bound."""


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: Visible text.
        order: Sort key; None for words, which are sorted as text.
        rank: Rank in the column, 1 for the best; 0 for a cell without one, None in a column without ranks.
        note: Remark after the figure.
        link: Id of the element that the cell links to.
    """

    text: str
    order: float | None = None
    rank: int | None = None
    note: str = ""
    link: str = ""

    def latex(self) -> str:
        """Return the text as LaTeX, bold for the best of a column."""
        text = latex_text(self.text)
        return rf"\textbf{{{text}}}" if self.rank == 1 else text

    def plain(self) -> str:
        """Return the figure with all its digits, or the words; empty where there is no figure."""
        try:
            float(self.text.replace(",", "").replace("−", "-"))
        except ValueError:
            return {"–": "", "∞": "inf"}.get(self.text, self.text)
        return self.text if self.order is None else str(self.order)


@dataclass(frozen=True)
class Table:
    """A table with a header and perhaps a last row that is not sorted; ``ours`` are the rows to highlight."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    foot: tuple[Cell, ...] = ()
    ours: frozenset[int] = frozenset()

    def latex(self) -> str:
        """Return the table as LaTeX with rules of the package booktabs; figures are as shown, the best ones bold."""
        lines = ["% needs \\usepackage{booktabs}"]
        words = "".join("l" if cell.order is None else "r" for cell in self.rows[0])
        lines += [rf"\begin{{tabular}}{{{words}}}", r"\toprule", latex_row(map(latex_text, self.head)), r"\midrule"]
        lines += [latex_row(cell.latex() for cell in row) for row in self.rows]
        if self.foot:
            lines += [r"\midrule", latex_row(cell.latex() for cell in self.foot)]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])

    def csv(self) -> str:
        """Return the table as CSV: the header, the rows, and the last row if there is one."""
        text = io.StringIO()
        lines = [*self.rows, self.foot] if self.foot else self.rows
        csv.writer(text).writerows([self.head, *([cell.plain() for cell in line] for line in lines)])
        return text.getvalue()


LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}"},
    **{"×": r"$\times$", "±": r"$\pm$", "−": r"$-$", "∞": r"$\infty$", "–": "--"},
}
"""The characters that LaTeX writes otherwise."""


def latex_text(text: str) -> str:
    """Return a text as LaTeX shows it literally."""
    return "".join(LATEX.get(character, character) for character in text)


def latex_row(cells: Iterable[str]) -> str:
    """Return a row of a LaTeX table."""
    return " & ".join(cells) + r" \\"


class Column(NamedTuple):
    """A column of the challenge table."""

    title: str
    value: Callable[[BenchRow], float | None]
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


def challenge_table(rows: Sequence[BenchRow], titles: Mapping[str, str]) -> Table:
    """Return the networks, fastest first, ranked per column and relative to the baseline if it is one of them.

    Columns without any figure are left out.
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


def challenge_cell(column: Column, row: BenchRow, rows: Sequence[BenchRow], base: BenchRow | None) -> Cell:
    """Return a figure with its rank and its difference from the baseline."""
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


def validation_table(results: Mapping[str, ValidationRow], titles: Mapping[str, str]) -> Table:
    """Return one row per validation; the first columns are those that a phone shows."""
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


def per_image_table(result: ValidationRow) -> Table:
    """Return one row per image of a validation, the means last."""
    body = tuple((Cell(image.name), decibels(image.psnr), similarity(image.ssim)) for image in result.images)
    foot = (Cell("mean"), decibels(result.mean.psnr), similarity(result.mean.ssim))
    return Table(("Image", "PSNR [dB]", "SSIM"), body, foot)


def comparison_table(images: Sequence[ComparedImage], titles: Mapping[Kind, str]) -> Table:
    """Return bicubic and the networks on every image, the means last; each row links to its image.

    Args:
        images: The images, with their figures.
        titles: The names of bicubic and of the networks, by kind. An only network has a column for what it gains.
    """
    kinds = list(titles)
    means = {kind: mean([image.measured[kind] for image in images]) for kind in kinds}
    metrics = [metric for metric in METRICS if metric.field(means["bicubic"]) is not None]

    def figures(measured: Mapping[Kind, Quality]) -> list[Cell]:
        cells = [metric.cell(metric.field(measured[kind])) for metric in metrics for kind in kinds]
        if len(kinds) == 2:
            gain = measured["sr"].psnr - measured["bicubic"].psnr if math.isfinite(measured["bicubic"].psnr) else None
            shown = Cell("–", -math.inf) if gain is None else Cell(f"{gain:+.2f}".replace("-", "−"), gain)
            cells.insert(2, shown)
        return cells

    body = tuple(
        (
            Cell(image.name, link=f"image-{number}"),
            *figures(image.measured),
            Cell(f"{image.width} × {image.height}", image.width * image.height),
        )
        for number, image in enumerate(images, 1)
    )
    columns = [f"{titles[kind]} {metric.unit}" for metric in metrics for kind in kinds]
    if len(kinds) == 2:
        columns.insert(2, "Gain [dB]")
    return Table(("Image", *columns, "Size"), body, (Cell("mean"), *figures(means), Cell("")))


def mean(qualities: Sequence[Quality]) -> Quality:
    """Return the arithmetic means."""

    def average(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if len(known) == len(values) else None

    psnr, ssim, *distances = (average(column) for column in zip(*qualities, strict=True))
    assert psnr is not None and ssim is not None
    return Quality(psnr, ssim, *distances)


def decibels(value: float | None) -> Cell:
    """Return the cell of a PSNR, which is infinite for identical images, or of a missing one."""
    if value is None:
        return Cell("–", -math.inf)
    return Cell("∞" if math.isinf(value) else f"{value:.2f}", value)


def similarity(value: float | None) -> Cell:
    """Return the cell of an SSIM, or of a missing one."""
    return Cell("–", -math.inf) if value is None else Cell(f"{value:.4f}", value)


class Metric(NamedTuple):
    """A metric of the comparison: the end of its columns' titles, its figure and its cell."""

    unit: str
    field: Callable[[Quality], float | None]
    cell: Callable[[float | None], Cell]


METRICS = (
    Metric("[dB]", lambda quality: quality.psnr, decibels),
    Metric("SSIM", lambda quality: quality.ssim, similarity),
    Metric("LPIPS", lambda quality: quality.lpips, similarity),
    Metric("DISTS", lambda quality: quality.dists, similarity),
)
