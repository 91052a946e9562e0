"""Tables of a benchmark: ranks per column, as in the challenge, and percentages relative to the baseline."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fmen.benchmark.run import BASELINE, Row
from fmen.charts.tables import format_markdown
from fmen.errors import UserError
from fmen_eval.tables import format_text

MIB = 2**20


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Attributes:
        key: Its name for ``--sort``.
        title: Heading, with the unit.
        value: The figure of a row in that unit; None if it was not measured.
        digits: Decimals.
        higher_is_better: Whether a higher figure ranks first; otherwise a lower one does.
        compared: Whether cells show the difference from the baseline in percent.
        shown: Whether tables show it; rows can be sorted by any column.
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

ALIASES = {"time": "runtime"}
"""Other names of columns for ``--sort``."""

SORT_KEYS = ("model", *(column.key for column in COLUMNS))


def sort_rows(rows: Sequence[Row], key: str) -> list[Row]:
    """Sort rows by a column, best first, or by name; rows without a figure come last.

    Raises:
        UserError: No column has this key.
    """
    if key == "model":
        return sorted(rows, key=lambda row: row.model.name)
    column = next((column for column in COLUMNS if column.key == ALIASES.get(key, key)), None)
    if column is None:
        near = difflib.get_close_matches(key, (*SORT_KEYS, *ALIASES), 1)
        remedy = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(SORT_KEYS)}"
        raise UserError(f"--sort {key}: no such column; {remedy}")
    return sorted(rows, key=lambda row: cost(column, row))


def rank(column: Column, rows: Sequence[Row], row: Row) -> int:
    """Return the rank of a row in a column, 1 for the best; equal figures share a rank."""
    return 1 + sum(cost(column, other) < cost(column, row) for other in rows)


def cost(column: Column, row: Row) -> float:
    """Return the figure with the sign that makes lower better; infinite if it was not measured."""
    figure = column.value(row)
    if figure is None:
        return math.inf
    return -figure if column.higher_is_better else figure


def text_table(rows: Sequence[Row], baseline: str = BASELINE) -> str:
    """Format for the terminal: each figure with its rank in parentheses and its difference from the baseline."""
    return format_text(cells(rows, "{figure} ({rank}) {percent:>5}", baseline))


def markdown_table(rows: Sequence[Row], baseline: str = BASELINE) -> str:
    """Format as Markdown, with the ranks as subscripts, as in the challenge's report."""
    return format_markdown(cells(rows, "{figure}<sub>({rank})</sub> {percent}", baseline))


def memory_table(rows: Sequence[Row]) -> str:
    """Format each network's predicted peak memory, its node, and the measured peak, in MiB.

    *needed* is the paper's sum: a node's input, its output, tensors that later nodes use, and the parameters. *held*
    adds tensors that are unused but still referenced. *in place saves* is the difference to the peak without in-place
    operations. *allocated* is measured.
    """
    table = [("model", "needed", "at", "held", "at", "in place saves", "allocated")]
    for row in rows:
        if row.prediction is None:
            continue
        peak, held, measured = row.prediction.peak, row.prediction.peak_held, row.runtime.memory
        saved = row.prediction.peak_out_of_place.total_out_of_place - peak.total
        predicted = (f"{peak.total / MIB:.2f}", str(peak), f"{held.total_held / MIB:.2f}", str(held))
        allocated = f"{measured.allocated_bytes / MIB:.2f}"
        table.append((row.model.name, *predicted, f"{saved / MIB:.2f}", allocated))
    return format_text(table, words={0, 2, 4})


def cells(rows: Sequence[Row], form: str, baseline: str) -> list[tuple[str, ...]]:
    """Return the heading and the rows as text, without the columns that no row has a figure for.

    Args:
        rows: In the order of the table.
        form: Format of a cell, with the fields ``figure``, ``rank`` and ``percent``.
        baseline: The network that the others are compared with.
    """
    columns = [column for column in COLUMNS if column.shown and any(column.value(row) is not None for row in rows)]
    base = next((row for row in rows if row.model.name == baseline), None)

    def cell(column: Column, row: Row) -> str:
        figure, reference = column.value(row), column.value(base) if base and column.compared else None
        if figure is None:
            return "-"
        percent = f"{100 * (figure / reference - 1):+.0f}%" if reference else ""
        return form.format(figure=f"{figure:.{column.digits}f}", rank=rank(column, rows, row), percent=percent).rstrip()

    head = ("model", *(column.title for column in columns))
    return [head, *((row.model.name, *(cell(column, row) for column in columns)) for row in rows)]
