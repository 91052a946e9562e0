"""What ``loader.py`` needs to see how loading grows: caches of many small images, and many workers."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fmen_data import PatchSampler
from fmen_data.cache import FORMAT, VERSION

SCALE = 4


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
        file.attrs.update({"format": FORMAT, "version": VERSION, "scale": SCALE, "dataset": "synthetic"})
        for side, factor in (("lr", 1), ("hr", SCALE)):
            group = file.create_group(side)
            for i, (height, width) in enumerate((sizes * factor).tolist()):
                shift = i % (len(noise) // 2)
                group.create_dataset(names[i], data=noise[shift : shift + height, :width])
            describe_sources(group.attrs, [str(path.parent / side / f"{name}.png") for name in names])
    os.sync()
    return path


def describe_sources(attributes: Any, files: list[str]) -> None:
    """The attributes that a cache keeps of its images' files."""
    text = h5py.string_dtype()
    attributes.create("source", files, dtype=text)
    attributes.create("source_size", np.zeros(len(files), np.int64))
    attributes.create("source_mtime_ns", np.zeros(len(files), np.int64))
    attributes.create("source_checksum", ["0" * 32] * len(files), dtype=text)


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
