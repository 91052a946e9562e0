"""Patch pairs per second from the HDF5 cache, against decoding PNG sub-images and against slicing with h5py.

    python tools/bench/loader.py

All sides read the same photographs, cut into HR images of 480x480 pixels, and return the same patches: 64x64 LR pixels,
x4, in one of eight orientations, 16 of them as a pair of batch tensors.

- ours: ``PatchSampler.batch``, uint8;
- PNG: as BasicSR's ``PairedImageDataset`` (reimplemented from its description): per sample, both files are decoded,
  cropped, flipped, transposed and converted to float tensors in [0, 1], which are stacked;
- h5py: a slice of ``file[name]`` per patch of the same cache, then our augmentation.

Then by the number of images in a cache, and by the number of threads and processes. All files are in the system's
cache. Needs 2.5 GB in a temporary folder.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import tempfile
import time
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
from measure import Action, Report, in_turns, main
from numpy.typing import NDArray
from torch import Tensor

from fmen_data import PatchCache, PatchSampler, imresize, open_dataset, prepare_cache, write_image
from fmen_data.cache import FORMAT, VERSION
from fmen_data.cache_index import SourceFile, checksum, index_row
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
    """Yield a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="fmen-loader-") as folder:
        yield Path(folder)


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


def check(report: Report, sampler: PatchSampler, sides: dict[str, Make], steps: int = 8) -> None:
    """Make sure that all sides deliver the same pixels in every slot of some steps."""
    for name, make in sides.items():
        for step in range(steps):
            if not all(map(torch.equal, sampler.batch(step), as_bytes(make(step)))):
                raise SystemExit(f"the {name} side delivers other pixels at step {step}")
    shape = f"{sampler.patch}x{sampler.patch}"
    report.checks[f"{shape} pairs equal on all sides ({', '.join(sides)})"] = steps * sampler.batch_size


def rates(sides: dict[str, tuple[Make, int]], batch: int, rounds: int = 5) -> dict[str, float]:
    """Pairs per second of each side, which makes so many batches in a turn; every turn goes on to new steps."""

    def turn(make: Make, batches: int, steps: Iterator[int]) -> None:
        for step in itertools.islice(steps, batches):
            make(step)

    actions = {name: partial(turn, make, batches, itertools.count()) for name, (make, batches) in sides.items()}
    seconds = in_turns(actions, rounds=rounds)
    return {name: batches * batch / seconds[name] for name, (_, batches) in sides.items()}


def compare(
    report: Report,
    what: str,
    folder: Path,
    cache: PatchCache,
    runs: int,
    work: int,
    targets: dict[str, tuple[str, float]],
) -> None:
    """Add the rows of one cache; ``targets`` has a description and a target by side."""
    sampler = PatchSampler([cache], patch=64, batch=16)
    with h5py.File(cache.path) as file:
        sides: dict[str, tuple[Make, int]] = {
            "ours": (sampler.batch, 4 * work),
            "PNG": (png_maker(folder, cache.names, sampler), 1),
            "h5py": (by_name(file, cache.names, sampler), work),
            "h5py kept open": (kept_open(file, cache.names, sampler), work),
        }
        if "PNG" not in targets:
            del sides["PNG"]
        else:
            check(report, sampler, {name: make for name, (make, _) in sides.items() if name != "ours"})
        found = [rates(sides, sampler.batch_size) for _ in range(runs)]
    for side, (against, target) in targets.items():
        report.compare(what, against, "pairs/s", found, ("ours", side), target)
    ratio = median(rate["ours"] / rate["h5py kept open"] for rate in found)
    report.facts[f"ratio to h5py with all dataset objects opened before, {what}"] = round(ratio, 2)


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
            ways: dict[str, Action] = {
                "ours": partial(open_cache, path),
                "h5py, all datasets": partial(open_datasets, path),
            }
            seconds = in_turns(ways, rounds=3 if count <= 10_000 else 1)
        for name, line in rate.items():
            line.append((count, found[name]))
        for name, line in opening.items():
            line.append((count, seconds[name]))
    small = f"{SMALL_PATCH}x{SMALL_PATCH} patches of synthetic images, 16 to 20 LR pixels a side"
    report.curve(f"Loading by number of images ({small})", "images in the cache", "pairs/s", rate)
    report.curve("Opening a cache by number of images (synthetic)", "images in the cache", "seconds", opening)


def scale_workers(report: Report, cache: PatchCache, work: int) -> None:
    """Add the rate by threads, and by processes that share the slots of every step."""
    sampler = PatchSampler([cache], patch=64, batch=16)
    steps = 40 * work
    lines = {
        "threads of one process": [(count, threads_rate(sampler, count, steps)) for count in WORKERS],
        "processes": [(count, ranks_rate(sampler, count, steps)) for count in WORKERS],
    }
    title = f"Loading by workers (64x64 patches of sub-images, {os.cpu_count()} cores)"
    report.curve(title, "workers", "pairs/s", lines)


def synthetic_cache(path: Path, count: int, smallest: int) -> Path:
    """Write a cache of ``count`` images of noise, ``smallest`` to ``smallest + 4`` LR pixels a side.

    In the format that ``fmen_data.cache`` documents, straight from memory: writing and decoding 200,000 image files
    would take longer than all else. The source files it names are not there, which opening it finds out one by one,
    as it would find them unchanged.
    """
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (2 * SCALE * (smallest + 4),) * 2 + (3,), np.uint8)
    sizes = generator.integers(smallest, smallest + 5, (count, 2))
    names = [f"{i:06d}" for i in range(count)]
    with h5py.File(path, "w", libver="latest") as file:
        index: dict[str, list[Any]] = {"names": names, "lr": [], "hr": []}
        for side, factor in (("lr", 1), ("hr", SCALE)):
            group = file.create_group(side)
            for i, (height, width) in enumerate((sizes * factor).tolist()):
                shift = i % (len(noise) // 2)
                image = noise[shift : shift + height, :width]
                group.create_dataset(names[i], data=image)
                source = SourceFile(path.parent / side / f"{names[i]}.png", 0, 0, "0" * 32)
                index[side].append(index_row(image, source))
        content = json.dumps(index).encode()
        file.create_dataset("index", data=np.frombuffer(content, np.uint8))
        text = {"format": FORMAT, "dataset": "synthetic", "index_checksum": checksum(content)}
        file.attrs.update({key: np.bytes_(value.encode()) for key, value in text.items()})
        file.attrs.update({"version": VERSION, "scale": SCALE})
    os.sync()
    return path


def threads_rate(sampler: PatchSampler, threads: int, steps: int) -> float:
    """Pairs per second that ``PatchSampler.batches`` delivers to a consumer that does nothing with them; best of 3."""
    best = 0.0
    for _ in range(3):
        begun = time.perf_counter()
        for _batch in sampler.batches(0, steps, threads=threads, prefetch=2 * threads):
            pass
        best = max(best, steps * sampler.batch_size / (time.perf_counter() - begun))
    return best


def ranks_rate(sampler: PatchSampler, ranks: int, steps: int) -> float:
    """Pairs per second of ``ranks`` processes that each make their slots of every step; best of 3."""
    best = 0.0
    for _ in range(3):
        context = multiprocessing.get_context("fork")
        barrier, spans = context.Barrier(ranks), context.SimpleQueue()
        processes = [
            context.Process(target=make_slots, args=(sampler, i, ranks, steps, barrier, spans)) for i in range(ranks)
        ]
        for process in processes:
            process.start()
        times = [spans.get() for _ in processes]
        for process in processes:
            process.join()
        seconds = max(end for _, end in times) - min(begun for begun, _ in times)
        best = max(best, steps * sampler.batch_size / seconds)
    return best


def make_slots(sampler: PatchSampler, rank: int, ranks: int, steps: int, barrier: Any, spans: Any) -> None:
    """One of the processes: all begin together, and each tells when it began and ended."""
    barrier.wait()
    begun = time.monotonic()
    for step in range(steps):
        sampler.batch(step, rank=rank, world_size=ranks)
    spans.put((begun, time.monotonic()))


def run(runs: int, images: int = 256, counts: Sequence[int] = COUNTS, work: int = 10) -> Report:
    """Check and measure.

    Args:
        runs: Repetitions of the comparisons.
        images: Number of sub-images; a sixteenth as many whole images.
        counts: Numbers of images of the synthetic caches.
        work: About how many batches a timing takes.
    """
    report = Report("loader")
    slicing = ("h5py slicing of the same file", 3.0)
    decoding = ("decoding 480x480 PNG sub-images, as BasicSR does", 50.0)
    with scratch() as folder:
        cache = make_cache(folder, images, SUB_IMAGE)
        what = "patch pairs from the cache (64x64 LR, x4, augmented, as a batch tensor)"
        compare(report, what, folder, cache, runs, work, {"PNG": decoding, "h5py": slicing})
        scale_workers(report, cache, work)
    with scratch() as folder:
        cache = make_cache(folder, max(2, images // 16), DIV2K_IMAGE)
        what = f"the same from whole images of {DIV2K_IMAGE[1]}x{DIV2K_IMAGE[0]}"
        compare(report, what, folder, cache, runs, work, {"h5py": slicing})
    scale_images(report, counts, work)
    return report


if __name__ == "__main__":
    main(__doc__, run, {"images": 3, "counts": (20, 40), "work": 1})
