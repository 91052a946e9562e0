"""Patch pairs per second from the HDF5 cache, against decoding PNG sub-images and against slicing with h5py.

    python tools/bench/loader.py

All sides read the same images, photographs of scikit-image enlarged and cut into HR images of 480x480 pixels, and
deliver the same patches: 64x64 LR pixels, x4, in one of eight orientations, 16 of them as a pair of batch tensors.

- ours: ``PatchSampler.batch``, uint8;
- PNG: as BasicSR's ``PairedImageDataset`` does (written anew from its description). One sample after the other: both
  files are read and decoded, cropped, flipped, transposed, and become float tensors in [0, 1], which are stacked;
- h5py: a slice of ``file[name]`` per patch of the same cache, then our own augmentation.

Then by the number of images in a cache, in one thread, and by the number of threads and processes. Everything has been
read before, so that it comes from the system's file cache. Takes 2.5 GB of disk in a temporary folder, for a while.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import h5py
import numpy as np
import skimage.data
import torch
from loader_scale import ranks_rate, synthetic_cache, threads_rate
from measure import Comparison, Report, in_turns, options
from numpy.typing import NDArray
from torch import Tensor

from fmen_data import PatchCache, PatchSampler, imresize, open_dataset, prepare_cache, write_image
from fmen_data.patches import place_patch

Batch = tuple[Tensor, Tensor]
Make = Callable[[int], Batch]

SCALE = 4
SUB_IMAGE = (480, 480)
DIV2K_IMAGE = (1356, 2040)  # height and width
COUNTS = (100, 1000, 10_000, 100_000)
WORKERS = (1, 2, 4)
SMALL_PATCH = 16  # of the synthetic caches


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="fmen-loader-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def photographs(count: int, size: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """``count`` images of ``size`` ``(height, width)``, cut at random from enlarged photographs."""
    generator, photos = np.random.default_rng(0), []
    for name in ("astronaut", "chelsea", "coffee", "rocket", "retina"):
        photo = getattr(skimage.data, name)()
        factor = 1.25 * max(size[0] / photo.shape[0], size[1] / photo.shape[1])
        photos.append(cv2.resize(photo, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC))
    for photo in itertools.islice(itertools.cycle(photos), count):
        top, left = (int(generator.integers(photo.shape[side] - size[side] + 1)) for side in (0, 1))
        yield np.ascontiguousarray(photo[top : top + size[0], left : left + size[1]])


def make_cache(folder: Path, count: int, size: tuple[int, int]) -> PatchCache:
    """Image files in the benchmark layout, and a cache of them."""
    for i, hr in enumerate(photographs(count, size)):
        write_image(folder / f"HR/{i:04d}.png", hr)
        write_image(folder / f"LR_bicubic/X{SCALE}/{i:04d}x{SCALE}.png", imresize(hr, 1 / SCALE))
    path = prepare_cache(open_dataset(folder, scale=SCALE), folder / "cache.h5", progress=False)
    os.sync()  # or the disk is still busy while we measure
    return PatchCache(path)


def png_maker(folder: Path, names: Sequence[str], sampler: PatchSampler) -> Make:
    """BasicSR's way."""

    def one(file: Path, top: int, left: int, side: int, orientation: int) -> Tensor:
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

    def batch(step: int) -> Batch:
        lr, hr = [], []
        for index, top, left, orientation in sampler.draw(step).tolist():
            name, side = names[index], sampler.patch
            hr_file, lr_file = folder / f"HR/{name}.png", folder / f"LR_bicubic/X{SCALE}/{name}x{SCALE}.png"
            hr.append(one(hr_file, top * SCALE, left * SCALE, side * SCALE, orientation))
            lr.append(one(lr_file, top, left, side, orientation))
        return torch.stack(lr), torch.stack(hr)

    return batch


def h5py_maker(lr_of: Callable[[int], Any], hr_of: Callable[[int], Any], sampler: PatchSampler) -> Make:
    """Slicing h5py's datasets, which two functions find by the image's index."""

    def batch(step: int) -> Batch:
        lr_side, hr_side = sampler.patch, sampler.patch * SCALE
        lr = np.empty((sampler.batch_size, lr_side, lr_side, 3), np.uint8)
        hr = np.empty((sampler.batch_size, hr_side, hr_side, 3), np.uint8)
        for slot, (index, top, left, orientation) in enumerate(sampler.draw(step).tolist()):
            place_patch(lr_of(index)[top : top + lr_side, left : left + lr_side], lr[slot], orientation)
            top, left = top * SCALE, left * SCALE
            place_patch(hr_of(index)[top : top + hr_side, left : left + hr_side], hr[slot], orientation)
        return torch.from_numpy(lr).permute(0, 3, 1, 2), torch.from_numpy(hr).permute(0, 3, 1, 2)

    return batch


def by_name(file: Any, names: Sequence[str], sampler: PatchSampler) -> Make:
    """``file[name][...]`` for every patch."""
    return h5py_maker(lambda i: file[f"lr/{names[i]}"], lambda i: file[f"hr/{names[i]}"], sampler)


def kept_open(file: Any, names: Sequence[str], sampler: PatchSampler) -> Make:
    """The same, with all dataset objects made beforehand and kept."""
    lr, hr = ([file[f"{side}/{name}"] for name in names] for side in ("lr", "hr"))
    return h5py_maker(lr.__getitem__, hr.__getitem__, sampler)


def as_bytes(batch: Batch) -> Batch:
    """Float tensors in [0, 1] as uint8; uint8 ones as they are."""
    lr, hr = ((255 * x).round().to(torch.uint8) if x.is_floating_point() else x for x in batch)
    return lr, hr


def bare_copy(cache: PatchCache, sampler: PatchSampler) -> Make:
    """What no loader can do without: the same patches, copied as they lie into memory that is there already."""
    lr, hr = sampler.batch(0)
    lr_out, hr_out = lr.permute(0, 2, 3, 1).numpy(), hr.permute(0, 2, 3, 1).numpy()

    def batch(step: int) -> Batch:
        lr_side, hr_side = sampler.patch, sampler.patch * SCALE
        for slot, (index, top, left, _) in enumerate(sampler.draw(step).tolist()):
            lr_out[slot] = cache.lr[index][top : top + lr_side, left : left + lr_side]
            top, left = top * SCALE, left * SCALE
            hr_out[slot] = cache.hr[index][top : top + hr_side, left : left + hr_side]
        return lr, hr

    return batch


def check(report: Report, sampler: PatchSampler, sides: dict[str, Make], steps: int = 8) -> None:
    """Make sure that all sides deliver the same pixels in every slot of some steps."""
    for name, make in sides.items():
        for step in range(steps):
            if not all(map(torch.equal, sampler.batch(step), as_bytes(make(step)))):
                raise SystemExit(f"the {name} side delivers other pixels at step {step}")
    shape = f"{sampler.patch}x{sampler.patch}"
    report.checks[f"{shape} pairs equal on all sides ({', '.join(sides)})"] = steps * sampler.batch_size


def rates(sides: dict[str, tuple[Make, int]], batch: int, rounds: int = 7) -> dict[str, float]:
    """Pairs per second of each side, which makes so many batches in a turn; every turn goes on to new steps."""

    def turn(make: Make, batches: int, steps: Iterator[int]) -> None:
        for step in itertools.islice(steps, batches):
            make(step)

    actions = {name: partial(turn, make, batches, itertools.count()) for name, (make, batches) in sides.items()}
    seconds = in_turns(actions, rounds=rounds)
    return {name: batches * batch / seconds[name] for name, (_, batches) in sides.items()}


def as_floats(sampler: PatchSampler) -> Make:
    """Ours with the conversion that a trainer does next, and BasicSR's dataset has done."""

    def batch(step: int) -> Batch:
        lr, hr = sampler.batch(step)
        return lr.float(), hr.float()

    return batch


def compare_sub_images(report: Report, folder: Path, cache: PatchCache, runs: int, work: int) -> None:
    """Against PNG files and h5py, on the same sub-images."""
    sampler = PatchSampler([cache], patch=64, batch=16)
    with h5py.File(cache.path) as file:
        sides: dict[str, tuple[Make, int]] = {
            "ours": (sampler.batch, 4 * work),
            "PNG": (png_maker(folder, cache.names, sampler), 1),
            "h5py": (by_name(file, cache.names, sampler), work),
            "h5py kept open": (kept_open(file, cache.names, sampler), work),
            "ours as floats": (as_floats(sampler), work),
            "bare copy": (bare_copy(cache, sampler), 4 * work),
        }
        check(report, sampler, {name: sides[name][0] for name in ("PNG", "h5py", "h5py kept open")})
        found = [rates(sides, sampler.batch_size) for _ in range(runs)]
    what = "patch pairs from the cache (64x64 LR, x4, augmented, as a batch tensor)"
    ours = [rate["ours"] for rate in found]
    for side, against, target in (
        ("PNG", "decoding 480x480 PNG sub-images, as BasicSR does", 50),
        ("h5py", "h5py slicing of the same file", 3),
    ):
        report.comparisons.append(Comparison(what, against, "pairs/s", ours, [rate[side] for rate in found], target))
    kept = median(rate["ours"] / rate["h5py kept open"] for rate in found)
    report.facts["ratio to h5py with all dataset objects made beforehand and kept, sub-images"] = round(kept, 2)
    floats = median(rate["ours as floats"] / rate["PNG"] for rate in found)
    report.facts["ratio to PNG, ours converted to float32, too"] = round(floats, 1)
    copied = median(rate["ours"] / rate["bare copy"] for rate in found)
    report.facts["share of the rate at which NumPy copies the same patches, unturned, into memory that is there"] = (
        round(copied, 2)
    )


def compare_whole_images(report: Report, cache: PatchCache, runs: int, work: int) -> None:
    """Against h5py, on images of DIV2K's size, as a cache of DIV2K holds them."""
    sampler = PatchSampler([cache], patch=64, batch=16)
    with h5py.File(cache.path) as file:
        sides: dict[str, tuple[Make, int]] = {
            "ours": (sampler.batch, 4 * work),
            "h5py": (by_name(file, cache.names, sampler), work),
            "h5py kept open": (kept_open(file, cache.names, sampler), work),
        }
        found = [rates(sides, sampler.batch_size) for _ in range(runs)]
    height, width = cache.hr[0].shape[:2]
    report.comparisons.append(
        Comparison(
            f"the same from whole images of {width}x{height}",
            "h5py slicing of the same file",
            "pairs/s",
            [rate["ours"] for rate in found],
            [rate["h5py"] for rate in found],
            target=3,
        )
    )
    kept = median(rate["ours"] / rate["h5py kept open"] for rate in found)
    report.facts["ratio to h5py with all dataset objects made beforehand and kept, whole images"] = round(kept, 2)


def open_cache(path: Path) -> PatchSampler:
    """All that happens before the first patch: the files behind every image are looked at, too."""
    return PatchSampler([PatchCache(path)], patch=SMALL_PATCH)


def open_datasets(path: Path) -> None:
    """What slicing without looking up names would need: an object per dataset."""
    with h5py.File(path) as file:
        for side in ("lr", "hr"):
            list(file[side].values())


def scale_images(report: Report, counts: Sequence[int], work: int) -> None:
    """How rate and time to open grow with the number of images."""
    rate: dict[str, list[tuple[float, float]]] = {"ours": [], "h5py": []}
    opening: dict[str, list[tuple[float, float]]] = {"ours": [], "h5py, all datasets": []}
    for count in counts:
        with scratch() as folder:
            path = synthetic_cache(folder / "cache.h5", count, SMALL_PATCH)
            with h5py.File(path) as file:
                cache = PatchCache(path)
                sampler = PatchSampler([cache], patch=SMALL_PATCH, batch=16)
                slicing = by_name(file, cache.names, sampler)
                check(report, sampler, {"h5py": slicing}, steps=2)
                found = rates({"ours": (sampler.batch, 20 * work), "h5py": (slicing, 2 * work)}, 16)
            ways: dict[str, Callable[[], object]] = {
                "ours": partial(open_cache, path),
                "h5py, all datasets": partial(open_datasets, path),
            }
            seconds = in_turns(ways, rounds=3 if count <= 10_000 else 1, warmup=0)
        for name, line in rate.items():
            line.append((count, found[name]))
        for name, line in opening.items():
            line.append((count, seconds[name]))
    small = f"{SMALL_PATCH}x{SMALL_PATCH} patches of synthetic images, 16 to 20 LR pixels a side"
    report.curve(f"Loading by number of images ({small})", "images in the cache", "pairs/s", rate)
    report.curve("Opening a cache by number of images (synthetic)", "images in the cache", "seconds", opening)


def scale_workers(report: Report, cache: PatchCache, workers: Sequence[int], work: int) -> None:
    """How the rate grows with threads, and with processes that share the slots of every step."""
    sampler = PatchSampler([cache], patch=64, batch=16)
    steps = 40 * work
    lines = {
        "threads of one process": [(count, threads_rate(sampler, count, steps)) for count in workers],
        "processes": [(count, ranks_rate(sampler, count, steps)) for count in workers],
    }
    title = f"Loading by workers (64x64 patches of sub-images, {os.cpu_count()} cores)"
    report.curve(title, "workers", "pairs/s", lines)


def run(runs: int, images: int = 256, counts: Sequence[int] = COUNTS, work: int = 10) -> Report:
    """Check and measure.

    Args:
        runs: How often the comparisons are repeated.
        images: Sub-images; a sixteenth as many whole images.
        counts: Images of the synthetic caches.
        work: How many batches, about, one timing makes.
    """
    report = Report("loader")
    with scratch() as folder:
        cache = make_cache(folder, images, SUB_IMAGE)
        compare_sub_images(report, folder, cache, runs, work)
        scale_workers(report, cache, WORKERS, work)
    with scratch() as folder:
        compare_whole_images(report, make_cache(folder, max(2, images // 16), DIV2K_IMAGE), runs, work)
    scale_images(report, counts, work)
    return report


def main() -> None:
    """The command line."""
    chosen = options(__doc__)
    report = run(chosen.runs)
    report.show()
    report.write(chosen.json)


if __name__ == "__main__":
    main()
