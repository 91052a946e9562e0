"""Which images a command works on: what people write after ``--data``, and what is taken when they write nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TypeAlias

from fmen.processes import Processes
from fmen.recipe import Recipe
from fmen_data import PairDataset, PatchCache, PatchSampler, open_dataset, prepare_cache
from fmen_data.datasets import find_official

SAMPLE = "sample"
DATA = Path("data")

Source: TypeAlias = str | Path | tuple[Path, Path]


def parse_source(source: str) -> Source:
    """``sample``, one dataset folder, or ``HR_DIR,LR_DIR``: two folders given by name."""
    hr, comma, lr = source.partition(",")
    if comma and not Path(source).exists():
        return Path(hr.strip()), Path(lr.strip())
    return source


def open_patches(recipe: Recipe, processes: Processes) -> PatchSampler:
    """The training patches of a recipe; caches that are missing are prepared first, by one process for all."""
    datasets = [open_dataset(parse_source(source), scale=recipe.scale, split="train") for source in recipe.data]
    if not processes.first:
        processes.wait()
    caches = [
        PatchCache(prepare_cache(dataset, progress=processes.first and sys.stderr.isatty())) for dataset in datasets
    ]
    if processes.first:
        processes.wait()
    return PatchSampler(caches, patch=recipe.patch, batch=recipe.batch, seed=recipe.seed)


def open_validation(recipe: Recipe) -> PairDataset | None:
    """The images that a run is validated on as it goes, or None if there are none."""
    if recipe.val_data is not None:
        return open_dataset(parse_source(recipe.val_data), scale=recipe.scale, split="val")
    if SAMPLE in recipe.data:
        return open_dataset(SAMPLE, scale=recipe.scale, split="val")
    found = (div2k_validation(Path(source), recipe.scale) for source in [*recipe.data, str(DATA)])
    return next((dataset for dataset in found if dataset), None)


def measured_source(data: str | None, scale: int) -> Source:
    """What ``--data`` names; None: DIV2K's validation images under ``data/``, or else the sample's."""
    if data is not None:
        return parse_source(data)
    return DATA if find_official(DATA, "val", scale) else SAMPLE


def div2k_validation(root: Path, scale: int) -> PairDataset | None:
    """DIV2K's validation images at ``root``, or None if they are not there."""
    return open_dataset(root, scale=scale, split="val") if find_official(root, "val", scale) else None
