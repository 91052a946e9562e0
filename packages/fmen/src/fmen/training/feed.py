"""What training reads: patches for every process, validation images for the first one."""

from __future__ import annotations

import sys
from pathlib import Path

from fmen.training.distributed import Processes
from fmen.training.recipe import Recipe
from fmen_data import PairDataset, PatchCache, PatchSampler, open_dataset, prepare_cache
from fmen_data.datasets import find_official, parse_source

SAMPLE = "sample"
DATA = "data"


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
    for folder in map(Path, (*recipe.data, DATA)):
        if find_official(folder, "val", recipe.scale):
            return open_dataset(folder, scale=recipe.scale, split="val")
    return None
