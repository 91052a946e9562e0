"""Which images a command works on: what ``--data`` names, and the default where it is not given."""

from __future__ import annotations

from pathlib import Path

from fmen_data.datasets import Source, find_official, parse_source

DATA = Path("data")


def measured_source(data: str | None, scale: int) -> Source:
    """The source that ``--data`` names; without it DIV2K's validation images under ``data/``, or else the sample."""
    if data is not None:
        return parse_source(data)
    return DATA if find_official(DATA, "val", scale) else "sample"
