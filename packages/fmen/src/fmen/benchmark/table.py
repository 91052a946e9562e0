"""The benchmark as a table: ranked per column as in the challenge, and in percent of the baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fmen.benchmark.run import BASELINE, Row
from fmen.errors import UserError

MIB = 2**20


@dataclass(frozen=True)
class Column:
    """One figure of every row.

    Attributes:
        key: What ``--sort`` takes.
        title: Heading, with the unit.
        value: The figure in that unit; None where it is unknown.
        digits: Behind the point.
        higher_is_better: Otherwise lower is.
        compared: Whether it is given in percent of the baseline, too.
        shown: Whether tables have it; all columns can be sorted by.
    """

    key: str
    title: str
    value: Callable[[Row], float | None]
    digits: int
    higher_is_better: bool = False
    compared: bool = True
    shown: bool = True


COLUMNS = (
    Column(
        "psnr",
        "PSNR [dB]",
        lambda row: row.accuracy.psnr if row.accuracy else None,
        digits=2,
        higher_is_better=True,
        compared=False,
    ),
    Column("params", "Params [M]", lambda row: row.params / 1e6, 3),
    Column("flops", "FLOPs [G]", lambda row: row.flops / 1e9, 2),
    Column("macs", "MACs [G]", lambda row: row.macs / 1e9, 2, shown=False),
    Column("activations", "Acts [M]", lambda row: row.activations / 1e6, 2),
    Column("convs", "Convs", lambda row: row.convs, 0, compared=False),
    Column("runtime", "Time [ms]", lambda row: row.runtime.median_ms, 2),
    Column("memory", "Memory [MiB]", lambda row: row.runtime.memory.allocated_bytes / MIB, 2),
    Column("score", "Score", lambda row: row.score, 2, compared=False),
)

SORT_KEYS = ("model", *(column.key for column in COLUMNS))


def sort_rows(rows: Sequence[Row], key: str) -> list[Row]:
    """The rows, best first by a column, or by name; rows without a figure come last.

    Raises:
        UserError: There is no such column.
    """
    if key == "model":
        return sorted(rows, key=lambda row: row.entrant.model)
    column = next((column for column in COLUMNS if column.key == key), None)
    if column is None:
        raise UserError(f"--sort {key}: choose one of {', '.join(SORT_KEYS)}")
    return sorted(rows, key=lambda row: cost(column, row))


def rank(column: Column, rows: Sequence[Row], row: Row) -> int:
    """1 for the best row of a column; equals share a rank."""
    return 1 + sum(cost(column, other) < cost(column, row) for other in rows)


def cost(column: Column, row: Row) -> float:
    """The figure such that less is better; infinite where it is unknown."""
    figure = column.value(row)
    if figure is None:
        return math.inf
    return -figure if column.higher_is_better else figure


def text_table(rows: Sequence[Row]) -> str:
    """A table for the terminal: the figure, its rank in parentheses, and its distance from the baseline."""
    return aligned(cells(rows, "{figure} ({rank}) {percent:>5}"), words={0})


def markdown_table(rows: Sequence[Row]) -> str:
    """The same for a README, with the ranks as subscripts, as the challenge's report prints them."""
    head, *body = cells(rows, "{figure}<sub>({rank})</sub> {percent}")
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *body])


def memory_table(rows: Sequence[Row]) -> str:
    """The predicted peak of each network and the node where it lies, beside the measured one, in MiB.

    *needed* is the paper's sum, *held* adds what Python still refers to, *in place saves* is how much higher the former
    would be if nothing were in place; *allocated* and *resident* are measured.
    """
    table = [("model", "needed", "at", "held", "at", "in place saves", "allocated", "resident")]
    for row in rows:
        if row.prediction is None:
            continue
        peak, held, measured = row.prediction.peak, row.prediction.peak_held, row.runtime.memory
        saved = row.prediction.peak_out_of_place.total_out_of_place - peak.total
        resident = "-" if measured.resident_bytes is None else f"{measured.resident_bytes / MIB:.2f}"
        predicted = (f"{peak.total / MIB:.2f}", str(peak), f"{held.total_held / MIB:.2f}", str(held))
        allocated = f"{measured.allocated_bytes / MIB:.2f}"
        table.append((row.entrant.model, *predicted, f"{saved / MIB:.2f}", allocated, resident))
    return aligned(table, words={0, 2, 4})


def cells(rows: Sequence[Row], form: str) -> list[tuple[str, ...]]:
    """Head and body, without the columns that no row has a figure for.

    Args:
        rows: In their order.
        form: What a cell looks like, with the fields ``figure``, ``rank`` and ``percent``.
    """
    columns = [column for column in COLUMNS if column.shown and any(column.value(row) is not None for row in rows)]
    base = next((row for row in rows if row.entrant.model == BASELINE), None)

    def cell(column: Column, row: Row) -> str:
        figure, reference = column.value(row), column.value(base) if base and column.compared else None
        if figure is None:
            return "-"
        percent = f"{100 * (figure / reference - 1):+.0f}%" if reference else ""
        return form.format(figure=f"{figure:.{column.digits}f}", rank=rank(column, rows, row), percent=percent).rstrip()

    head = ("model", *(column.title for column in columns))
    return [head, *((row.entrant.model, *(cell(column, row) for column in columns)) for row in rows)]


def aligned(table: Sequence[Sequence[str]], words: set[int]) -> str:
    """Lines of equal columns under a ruled head; the columns of words are set left, those of figures right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if index in words else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)
