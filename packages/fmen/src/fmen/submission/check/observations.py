"""Read what the probe's process left: its observations and the SR images. A stranger's code ran in that process."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ValidationError

from fmen_data import DataError, read_image
from fmen_data.bicubic import Image

LARGEST_OBSERVATIONS = 2**20
"""Largest ``probe.json`` that is read, in bytes."""


class Counts(BaseModel):
    """The complexity of the package's network."""

    params: int
    flops: int | float
    activations: int
    convs: int


class Observations(BaseModel):
    """What the probe found.

    Attributes:
        fault: What is wrong with the package: where, and one line.
        select_model: Why the package's ``select_model`` fails.
        data_range_from: Where the data range is declared; empty if it is not.
        counts: The network's complexity.
    """

    fault: tuple[str, str] | None = None
    select_model: str | None = None
    data_range_from: str | None = None
    counts: Counts | None = None


def read_observations(path: Path) -> Observations | None:
    """Read ``probe.json``; None if the package's code, which runs in the same process, prevented or replaced it."""
    if not is_own_file(path) or path.stat().st_size > LARGEST_OBSERVATIONS:
        return None
    try:
        return Observations.model_validate_json(path.read_bytes())
    except ValidationError:
        return None


def is_own_file(path: Path) -> bool:
    """Whether a file that the package's code left is one, not a link out of the folder and not a named pipe."""
    return path.is_file() and path.resolve() == path


def read_sr(path: Path) -> Image | None:
    """Read an image that the package's code left; None if it is missing or damaged."""
    try:
        return read_image(path) if is_own_file(path) else None
    except DataError:
        return None
