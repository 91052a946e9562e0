"""Tables as text and as Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def format_text(rows: Sequence[Sequence[str]], words: Collection[int] = (0,), foot: bool = False) -> str:
    """Return lines of equal columns.

    Args:
        rows: The first one is the header.
        words: The columns that are aligned left; figures are aligned right.
        foot: Whether the last row, too, is set apart by a rule.
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
    lines.insert(1, rule)
    if foot:
        lines.insert(-1, rule)
    return "\n".join(lines)


def format_markdown(rows: Sequence[Sequence[str]], words: Collection[int] = (0,)) -> str:
    """Return a Markdown table.

    Args:
        rows: The first one is the header.
        words: The columns that are aligned left; figures are aligned right.
    """
    head, *body = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    rule = ["---" if index in words else "---:" for index in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *body])
