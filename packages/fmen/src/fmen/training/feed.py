"""The data of a run: patches and validation images.

Patches are cut on the CPU in a background thread and uploaded, or on the device from images that stay in its memory as
uint8. Both give the same samples, bit for bit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fmen.sources.datasets import open_measured
from fmen.training.distributed import Processes
from fmen.training.recipe import Recipe, RecipeError
from fmen.training.stages import Stage
from fmen_core.copies import Copies
from fmen_data import Degradation, PairDataset, PatchCache, PatchSampler, open_dataset, prepare_cache
from fmen_data.bicubic import Image
from fmen_data.datasets import Source, find_official, parse_source
from fmen_data.degradation import step_generator

SAMPLE = "sample"
DATA = "data"

MEMORY_SHARE = 0.5
"""The share of a GPU's free memory that ``feed: auto`` gives to images; the rest is for the training step."""

LOADER = {"cpu": {"threads": 1, "prefetch": 2}, "cuda": {"threads": 4, "prefetch": 8}}
"""Threads that cut patches on the CPU, and batches made ahead, by the device that computes the steps."""

VALIDATION_SEED = 2**63
"""The seed of the degradations of validation images: above every seed of a recipe."""

Batch = tuple[Tensor, Tensor]


def open_patches(stages: Sequence[Stage], processes: Processes) -> list[PatchSampler]:
    """Return the sampler of each stage's training patches; one process per node prepares missing caches."""
    recipe = stages[0].recipe
    sources = dict.fromkeys(source for stage in stages for source in stage.recipe.data)

    @cache  # stages share images: a line is printed once
    def report(line: str) -> None:
        if processes.first:
            print(f"left out: {line}", file=sys.stderr)

    on_skip = report if recipe.skip_bad else None
    datasets = [
        open_dataset(parse_source(source), scale=recipe.scale, split="train", on_skip=on_skip) for source in sources
    ]
    progress = processes.first and sys.stderr.isatty()
    opened = processes.first_on_node(
        lambda: [PatchCache(prepare_cache(dataset, progress=progress, on_skip=on_skip)) for dataset in datasets]
    )
    caches = dict(zip(sources, opened, strict=True))
    return [
        PatchSampler(
            [caches[source] for source in stage.recipe.data],
            patch=stage.recipe.patch,
            batch=stage.recipe.batch,
            seed=stage.recipe.seed,
            weights=stage.recipe.data_weights,
            degradation=degradation_of(stage.recipe),
            on_skip=on_skip,
        )
        for stage in stages
    ]


def open_validation(recipe: Recipe) -> list[PairDataset]:
    """Return the datasets on which a run is validated; the first one chooses the best weights.

    Raises:
        DataError: A dataset cannot be used.
        UserError: Two have the same name.
    """
    sources: list[Source] = [parse_source(source) for source in recipe.val_data or ()]
    if recipe.val_data is None:
        official = (folder for folder in map(Path, (*recipe.data, DATA)) if find_official(folder, "val", recipe.scale))
        sources += [SAMPLE] if SAMPLE in recipe.data else [*official][:1]
    return open_measured(sources, recipe.scale, option="--val-data")


def degradation_of(recipe: Recipe) -> Degradation | None:
    """Return the degradation of the recipe's LR images."""
    return None if recipe.degradation is None else Degradation.from_dict(recipe.degradation)


def read_validation(recipe: Recipe, images: PairDataset, index: int) -> tuple[Image, Image]:
    """Return the LR and the HR image of a pair; a recipe with a degradation always degrades it in the same way."""
    lr, hr = images.read(index)
    degradation = degradation_of(recipe)
    return (lr if degradation is None else degradation(lr, hr, step_generator(VALIDATION_SEED, 0, index))), hr


def batches(
    stages: Sequence[Stage],
    samplers: Sequence[PatchSampler],
    processes: Processes,
    device: torch.device,
    *,
    start: int,
) -> Iterator[tuple[Stage, Tensor, Tensor]]:
    """Yield this process's batches from step ``start`` to the last step of the last stage.

    Yields:
        The stage, float LR ``(n, 3, patch, patch)`` and HR ``(n, 3, scale * patch, scale * patch)`` on ``device``, in
        [0, 255].

    Raises:
        RecipeError: ``feed: device``, and the images do not fit into the device's memory.
    """
    rank, size, uploads = processes.rank, processes.size, Copies(device)
    on_device: ResidentPatches | None = None
    for stage, sampler in zip(stages, samplers, strict=True):
        steps = range(max(start, stage.start), stage.stop)
        if not steps:
            continue
        pairs: Iterator[Batch]
        on_device = resident_patches(stage.recipe, sampler, device, on_device)
        if on_device:
            pairs = (on_device.batch(step, rank=rank, world_size=size) for step in steps)
        else:
            pairs = sampler.batches(steps.start, steps.stop, rank=rank, world_size=size, **LOADER[device.type])
        for lr, hr in pairs:
            yield stage, *to_floats(lr, hr, stage.recipe, uploads)


def to_floats(lr: Tensor, hr: Tensor, recipe: Recipe, uploads: Copies) -> Batch:
    """Convert uint8 patches to floats in [0, 255] on the device; bytes are uploaded, a quarter of the floats.

    An upload waits for no step: with a GPU, the patches of the next step are copied while a step computes.
    """
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    if lr.device.type == "cpu":
        lr, hr = uploads.upload(lr), uploads.upload(hr)
    return lr.to(torch.float32, memory_format=layout), hr.to(torch.float32, memory_format=layout)


def resident_patches(
    recipe: Recipe, sampler: PatchSampler, device: torch.device, before: ResidentPatches | None = None
) -> ResidentPatches | None:
    """Return the sampler's images on the device, or None if they stay on the CPU.

    Args:
        recipe: Decides where they are.
        sampler: The sampler of a stage.
        device: The device.
        before: Those of the stage before, which are used again if the images are the same and not degraded now.

    Raises:
        RecipeError: The recipe requires them on the device, and they do not fit.
    """
    if before and recipe.degradation is None and before.sampler.caches == sampler.caches:
        before.sampler = sampler
        return before
    if before:
        before.free()
    return ResidentPatches(sampler, device) if resident(recipe, sampler, device) else None


def resident(recipe: Recipe, sampler: PatchSampler, device: torch.device) -> bool:
    """Return whether the images stay on the device.

    Raises:
        RecipeError: The recipe requires it, and they do not fit.
    """
    if recipe.degradation is not None or recipe.feed == "cpu" or (recipe.feed == "auto" and device.type != "cuda"):
        return False
    if device.type != "cuda":
        return True
    needed = sum(image.size for cache in sampler.caches for image in (*cache.lr, *cache.hr))
    free = torch.cuda.mem_get_info(device)[0]
    if needed <= MEMORY_SHARE * free:
        return True
    if recipe.feed == "auto":
        return False
    raise RecipeError(
        f"feed = 'device': the images take {needed / 2**30:.1f} GiB, more than half of the GPU's {free / 2**30:.1f} "
        "free GiB; use --set feed=cpu"
    )


class ResidentPatches:
    """A sampler's batches, cut on a device from images that stay in its memory."""

    def __init__(self, sampler: PatchSampler, device: torch.device) -> None:
        self.sampler, self.uploads = sampler, Copies(device)
        for image in range(sum(map(len, sampler.caches))):
            sampler.check(image)
        self.lr = Pixels([image for cache in sampler.caches for image in cache.lr], device)
        self.hr = Pixels([image for cache in sampler.caches for image in cache.hr], device)

    def free(self) -> None:
        """Free the memory of the images."""
        del self.lr, self.hr
        if self.uploads.stream:
            torch.cuda.empty_cache()

    def batch(self, step: int, *, rank: int = 0, world_size: int = 1) -> Batch:
        """Return what ``PatchSampler.batch`` returns, on the device."""
        samples = torch.from_numpy(self.sampler.draw(step)[rank::world_size].copy())
        image, top, left, orientation = self.uploads.upload(samples).unbind(1)
        side, scale = self.sampler.patch, self.sampler.scale
        lr = self.lr.cut(image, top, left, orientation, side)
        return lr, self.hr.cut(image, scale * top, scale * left, orientation, scale * side)


class Pixels:
    """Images of any sizes in one uint8 tensor ``(pixels, 3)``, from which square patches are gathered.

    Pixel ``(i, j)`` of a patch is at ``start + i * down + j * right``: mirroring changes a step's sign, transposing
    exchanges the two steps. One indexing operation therefore cuts and augments a whole batch.
    """

    def __init__(self, images: Sequence[npt.NDArray[np.uint8]], device: torch.device) -> None:
        sizes = torch.tensor([image.shape[:2] for image in images])
        counts = sizes.prod(1)
        self.flat = torch.empty((int(counts.sum()), 3), dtype=torch.uint8, device=device)
        for image, pixels in zip(images, torch.split(self.flat, counts.tolist()), strict=True):
            pixels.copy_(torch.from_numpy(np.array(image)).view(-1, 3))
        self.first = (counts.cumsum(0) - counts).to(device)
        self.width = sizes[:, 1].to(device)

    def cut(self, image: Tensor, top: Tensor, left: Tensor, orientation: Tensor, side: int) -> Tensor:
        """Return patches ``(N, 3, side, side)`` in channels-last memory.

        Args:
            image: Index of each patch's image, ``(N,)`` like all others.
            top: Row of its first pixel.
            left: Column of its first pixel.
            orientation: As in ``fmen_data.patches``: 1 mirrors left-right, 2 top-bottom, 4 then transposes.
            side: Height and width.
        """
        width = self.width[image]
        mirrored, flipped, transposed = (orientation & bit != 0 for bit in (1, 2, 4))
        start = self.first[image] + (top + flipped * (side - 1)) * width + left + mirrored * (side - 1)
        row, column = torch.where(flipped, -width, width), torch.where(mirrored, -1, 1)
        down, right = torch.where(transposed, column, row), torch.where(transposed, row, column)
        steps = torch.arange(side, device=image.device)
        lines = start[:, None] + down[:, None] * steps
        places = lines[:, :, None] + (right[:, None] * steps)[:, None, :]
        return self.flat[places].permute(0, 3, 1, 2)
