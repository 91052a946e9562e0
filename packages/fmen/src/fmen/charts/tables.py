"""Tables as Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def format_markdown(rows: Sequence[Sequence[str]], words: Collection[int] = (0,)) -> str:
    """Return a Markdown table.

    Args:
        rows: The first one is the header.
        words: The columns that are aligned left; figures are aligned right.
    """
    head, *body = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    rule = ["---" if index in words else "---:" for index in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *body])
