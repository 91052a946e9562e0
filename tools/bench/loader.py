"""Patch pairs per second from the HDF5 cache, against decoding PNG sub-images and against slicing with h5py.

    python tools/bench/loader.py

All sides read the same images and return the same patches: 64x64 LR pixels, x4, in one of eight orientations, 16
of them as a pair of batch tensors.

- ours: ``PatchSampler.batch``, uint8;
- PNG: as BasicSR's ``PairedImageDataset`` (reimplemented from its description): per sample, both files are decoded,
  cropped, flipped, transposed and converted to float tensors in [0, 1], which are stacked;
- h5py: a slice of ``file[name]`` per patch of the same cache, then our augmentation.

The last cache has 10,000 images. All files are in the system's cache. Needs 1 GB in a temporary folder.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import torch
from measure import Report, in_turns, main, photograph
from torch import Tensor

from fmen_data import PatchCache, PatchSampler, imresize, open_dataset, prepare_cache, write_image
from fmen_data.patches import place_patch

Batch = tuple[Tensor, Tensor]
Make = Callable[[int], Batch]
Size = tuple[int, int]

SCALE = 4
SUB_IMAGE, DIV2K_IMAGE, TINY_IMAGE = (480, 480), (1356, 2040), (64, 64)  # height and width of HR images
ROUNDS = 5


def make_cache(folder: Path, count: int, size: Size) -> PatchCache:
    """Write images of ``size``, cut at random from a larger photograph, and a cache of them."""
    generator, whole = np.random.default_rng(0), photograph(2 * size[1], 2 * size[0])
    for i in range(count):
        top, left = (int(generator.integers(side + 1)) for side in size)
        hr = np.ascontiguousarray(whole[top : top + size[0], left : left + size[1]])
        write_image(folder / f"HR/{i:06d}.png", hr)
        write_image(folder / f"LR_bicubic/X{SCALE}/{i:06d}x{SCALE}.png", imresize(hr, 1 / SCALE))
    path = prepare_cache(open_dataset(folder, scale=SCALE), folder / "cache.h5", progress=False)
    os.sync()  # otherwise the disk is busy during the measurement
    return PatchCache(path)


def png_patch(file: Path, top: int, left: int, side: int, orientation: int) -> Tensor:
    """Decode a file and cut a patch, as BasicSR does."""
    image: Any = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    image = image.astype(np.float32) / 255.0
    image = image[top : top + side, left : left + side]
    if orientation & 1:
        cv2.flip(image, 1, image)
    if orientation & 2:
        cv2.flip(image, 0, image)
    if orientation & 4:
        image = image.transpose(1, 0, 2)
    return torch.from_numpy(cv2.cvtColor(image, cv2.COLOR_BGR2RGB).transpose(2, 0, 1)).float()


def png_batch(folder: Path, names: Sequence[str], sampler: PatchSampler, step: int) -> Batch:
    """Make a batch as BasicSR does."""
    lr, hr, side = [], [], sampler.patch
    for index, top, left, orientation in sampler.draw(step).tolist():
        hr_file = folder / f"HR/{names[index]}.png"
        lr_file = folder / f"LR_bicubic/X{SCALE}/{names[index]}x{SCALE}.png"
        hr.append(png_patch(hr_file, top * SCALE, left * SCALE, side * SCALE, orientation))
        lr.append(png_patch(lr_file, top, left, side, orientation))
    return torch.stack(lr), torch.stack(hr)


def h5py_batch(file: Any, names: Sequence[str], sampler: PatchSampler, step: int) -> Batch:
    """Make a batch of slices of h5py's datasets."""
    batch = []
    for kind, factor in (("lr", 1), ("hr", SCALE)):
        side = sampler.patch * factor
        out = np.empty((sampler.batch_size, side, side, 3), np.uint8)
        for slot, (index, top, left, orientation) in enumerate(sampler.draw(step).tolist()):
            rows, columns = (slice(start * factor, start * factor + side) for start in (top, left))
            place_patch(file[f"{kind}/{names[index]}"][rows, columns], out[slot], orientation)
        batch.append(torch.from_numpy(out).permute(0, 3, 1, 2))
    return batch[0], batch[1]


def check(report: Report, sampler: PatchSampler, sides: Mapping[str, Make], steps: int = 4) -> None:
    """Verify that all sides deliver the same pixels in every slot of several steps."""
    for name, make in sides.items():
        for step in range(steps):
            batch = ((255 * x).round().to(torch.uint8) if x.is_floating_point() else x for x in make(step))
            if not all(map(torch.equal, sampler.batch(step), batch)):
                raise SystemExit(f"the {name} side delivers other pixels at step {step}")
    shape = f"{sampler.patch}x{sampler.patch}"
    report.checks[f"{shape} pairs equal on all sides ({', '.join(sides)})"] = steps * sampler.batch_size


def rates(sides: Mapping[str, tuple[Make, int]], batch: int) -> dict[str, float]:
    """Return the pairs per second of each side; ``sides`` has what makes the batch of a step, and calls per timing."""

    def take(make: Make, batches: int, steps: Iterator[int]) -> None:
        for step in itertools.islice(steps, batches):
            make(step)

    actions = {name: partial(take, make, batches, itertools.count()) for name, (make, batches) in sides.items()}
    seconds = in_turns(actions, rounds=ROUNDS)
    return {name: batches * batch / seconds[name] for name, (_, batches) in sides.items()}


def compare(report: Report, what: str, folder: Path, cache: PatchCache, size: Size, runs: int, work: int) -> None:
    """Add the rows of one cache, of HR images of ``size``. BasicSR reads sub-images."""
    sampler = PatchSampler([cache], patch=12 if size == TINY_IMAGE else 64, batch=16)
    with h5py.File(cache.path) as file:
        others: dict[str, Make] = {"h5py": partial(h5py_batch, file, cache.names, sampler)}
        if size == SUB_IMAGE:
            others["PNG"] = partial(png_batch, folder, cache.names, sampler)
            check(report, sampler, others)
        sides = {name: (make, 1 if name == "PNG" else work) for name, make in others.items()}
        found = [rates({"ours": (sampler.batch, 4 * work), **sides}, 16) for _ in range(runs)]
    if "PNG" in others:
        against = "decoding 480x480 PNG sub-images, as BasicSR does"
        report.compare(what, against, "pairs/s", found, ("ours", "PNG"), 50)
    report.compare(what, "h5py slicing of the same file", "pairs/s", found, ("ours", "h5py"), 3)


def run(runs: int, images: int = 256, size: Size = DIV2K_IMAGE, many: int = 10_000, work: int = 10) -> Report:
    """Check and measure.

    Args:
        runs: Repetitions of the comparisons.
        images: Number of sub-images; a sixteenth as many whole images.
        size: ``(height, width)`` of the whole images.
        many: Number of images of the size of one patch.
        work: Batches per timing.
    """
    report = Report("loader")
    caches = {
        "patch pairs from the cache (64x64 LR, x4, augmented, as a batch tensor)": (images, SUB_IMAGE),
        f"the same from whole images of {size[1]}x{size[0]}": (max(2, images // 16), size),
        f"patch pairs of 12x12 LR pixels from {many:,} images": (many, TINY_IMAGE),
    }
    for what, (number, shape) in caches.items():
        with tempfile.TemporaryDirectory(prefix="fmen-loader-") as name:
            compare(report, what, Path(name), make_cache(Path(name), number, shape), shape, runs, work)
    return report


if __name__ == "__main__":
    main(__doc__, run, {"images": 2, "size": (300, 400), "many": 20, "work": 1})
