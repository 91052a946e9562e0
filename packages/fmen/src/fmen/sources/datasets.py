"""Resolve ``--data``: the images that a command works on, and the default."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fmen.errors import UserError
from fmen_data import PairDataset, Source, open_dataset, parse_source
from fmen_data.datasets import find_official

DATA = Path("data")


def measured_source(data: str | None, scale: int) -> Source:
    """Return the source that ``--data`` names. The default is DIV2K's validation set in ``data/`` or the sample."""
    if data is not None:
        return parse_source(data)
    return DATA if find_official(DATA, "val", scale) else "sample"


def open_measured(sources: Sequence[Source], scale: int, *, option: str) -> list[PairDataset]:
    """Open the images of several datasets that are measured; results are told apart by the datasets' names.

    Args:
        sources: The datasets.
        scale: The upscaling factor.
        option: The option that named them, for messages.

    Raises:
        DataError: A dataset cannot be used.
        UserError: Two have the same name.
    """
    datasets = [open_dataset(source, scale=scale, split="val") for source in sources]
    if len({dataset.name for dataset in datasets}) < len(datasets):
        names = ", ".join(dataset.name for dataset in datasets)
        raise UserError(f"{option}: the datasets have the names {names}; rename a folder so that all differ")
    return datasets
