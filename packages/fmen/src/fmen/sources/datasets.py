"""Resolve ``--data``: the images that a command works on, and the default."""

from __future__ import annotations

from pathlib import Path

from fmen_data import Source, parse_source
from fmen_data.datasets import find_official

DATA = Path("data")


def measured_source(data: str | None, scale: int) -> Source:
    """Return the source that ``--data`` names. The default is DIV2K's validation set in ``data/`` or the sample."""
    if data is not None:
        return parse_source(data)
    return DATA if find_official(DATA, "val", scale) else "sample"
