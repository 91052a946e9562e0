"""The error class of this package."""

from __future__ import annotations


class DataError(ValueError):
    """The user's images, folders or cache are at fault. The message is one line: what is wrong, where, what to do."""


def raise_all(problems: list[str]) -> None:
    """Raise one ``DataError`` that states every problem; do nothing if there is none."""
    if problems:
        count = f"{len(problems)} problems: " if len(problems) > 1 else ""
        raise DataError(count + "; ".join(problems))
