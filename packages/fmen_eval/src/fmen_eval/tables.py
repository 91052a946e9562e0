"""Tables as text."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def format_text(
    rows: Sequence[Sequence[str]], words: Collection[int] = (0,), *, head: bool = True, foot: bool = False
) -> str:
    """Return lines of equal columns.

    Args:
        rows: The first one is the header.
        words: The columns that are aligned left; figures are aligned right.
        head: Whether a rule follows the header.
        foot: Whether a rule precedes the last row.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if index in words else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * max(map(len, lines))
    if head:
        lines.insert(1, rule)
    if foot:
        lines.insert(-1, rule)
    return "\n".join(lines)
