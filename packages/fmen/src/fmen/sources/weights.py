"""Trained weights for the application: which ones are taken, and how published ones are downloaded."""

from __future__ import annotations

from pathlib import Path

from fmen.training.run_folder import RunError, newest_weights
from fmen_core import WeightsError, find_weights
from fmen_core.pretrained import Published, shipped
from fmen_data.download import fetch


def choose_weights(weights: str | None, scale: int) -> Path:
    """The weights to upscale with.

    Args:
        weights: A file or a name; None for FMEN-S inside the package, or else the best of the newest run.
        scale: Where nothing is named: the upscaling factor.

    Raises:
        WeightsError: There are none.
    """
    if weights is not None:
        return find_weights(weights)
    inside = shipped().get(f"fmen-s_x{scale}") or shipped().get(f"fmen_x{scale}")
    if inside is not None:
        return inside
    try:
        return newest_weights()
    except RunError:
        there = ", ".join(shipped()) or "no weights"
        raise WeightsError(
            f"no trained weights for x{scale}: inside the package are {there}, under runs/ are none; "
            "name some with --weights ('fmen weights list' shows published ones)"
        ) from None


def named_or_newest_weights(weights: Path | None) -> Path:
    """The weights to measure or to pack: a file or a name, or else the best of the newest run.

    Raises:
        WeightsError: There is no such file and no such name.
        RunError: Nothing is named, and there is no run.
    """
    return newest_weights() if weights is None else find_weights(weights)


def download(entry: Published, *, progress: bool = True, url: str | None = None) -> Path:
    """Get published weights into the cache folder, unless they are there.

    Args:
        entry: Which ones.
        progress: Show a bar.
        url: Another address that has the file.

    Raises:
        DataError: The server does not give the file, or gives another one.
    """
    if not entry.file.is_file():
        fetch(url or entry.url, entry.file, sha256=entry.sha256, progress=progress)
    return entry.file
