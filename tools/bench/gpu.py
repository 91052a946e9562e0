"""Everything that is measured on a GPU: training steps, what feeds them, and the forward pass of every network.

- training: FMEN-S x4 with the paper's batch, the published way, and as ``fmen train`` does it with and without a CUDA
  graph and ``torch.compile``;
- feeds: the quickest way on one batch that stays on the device, on patches cut on the device, and on the CPU's loader;
- networks: time of an image of DIV2K's size and of 256x256 pixels: of the network alone, launched kernel by kernel, and
  from image to image as ``Upscaler`` runs it, with CUDA graphs and copies;
- a large image, in strips that are computed while others are copied.

The shares relate to a product of large matrices of the same precision in the same run. All of it takes less than eight
minutes: networks for which no time is left are named and left out. ``--device cpu`` tries the script out.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from measure import Action, Report, in_turns, main, photograph, rounded
from roofs import flops, matmul_rate
from ways import PUBLISHED, SCALE, TARGETS, Way, check, ours, published, state_hours

from fmen.benchmark.models import default_names
from fmen.training.feed import LOADER, ResidentPatches, to_floats
from fmen.training.recipe import load_recipe, make_recipe
from fmen_core import Upscaler, create_model, reparameterize
from fmen_core.copies import Copies
from fmen_core.cuda_graph import WARMUP
from fmen_data import PatchCache, PatchSampler, open_dataset, prepare_cache, write_image
from fmen_eval import complexity, peak_memory

SIZES = ((339, 510), (256, 256))
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ENDLESS = 10**9
FED = 0.95
"""Target: share of the rate on one batch that the trainer reaches with a feed."""
LIMIT = 420
"""Seconds after the start of the script in which a network is begun."""


def make_ways(device: str) -> dict[str, Way]:
    """Return all ways by name; those with a graph on a GPU."""
    ways = {"published": published(device), "fp32": ours("fp32", device=device), "bf16": ours("bf16", device=device)}
    if device == "cuda":
        ways["bf16, graph"] = ours("bf16", device=device, graph=True)
        ways["bf16, Muon, graph"] = ours("bf16", device=device, graph=True, optimizer="muon")
        ways["bf16, compiled, graph"] = ours("bf16", {}, device=device, graph=True)
    return ways


def repeated(actions: Mapping[str, Action], steps: int, rounds: int) -> dict[str, float]:
    """Return the seconds of each action, from timings of ``steps`` of them; PyTorch's timer waits for the GPU."""

    def several(step: Action) -> None:
        for _ in range(steps):
            step()

    taken = in_turns({name: partial(several, action) for name, action in actions.items()}, rounds=rounds)
    return {name: seconds / steps for name, seconds in taken.items()}


def training(report: Report, ways: Mapping[str, Way], device: str, batch: int, patch: int, **timing: int) -> str:
    """Add the ways of training; return the quickest of the trainer's."""
    runs = [repeated({name: way.on(batch, patch, device) for name, way in ways.items()}, **timing) for _ in range(2)]
    rates = [{name: 1 / seconds for name, seconds in run.items()} for run in runs]
    for name in list(ways)[1:]:
        target = TARGETS[name.split(",")[0]]
        what = f"training steps, {batch} patches of {patch}x{patch}, {name}"
        report.compare(what, PUBLISHED, "steps/s", rates, (name, "published"), target)
    work = {name: flops(way.on(batch, patch, device)) for name, way in ways.items() if "," not in name}
    products = {name: matmul_rate(dtype, 64 if device == "cpu" else 8192, device) for name, dtype in DTYPES.items()}
    table: dict[str, Mapping[str, float]] = {}
    for name, way in ways.items():
        eager = name.split(",")[0]
        rate, product = work[eager] / runs[-1][name], products[eager.replace("published", "fp32")]
        row = {"ms": 1e3 * runs[-1][name], "share of a matrix product": rate / product}
        if "graph" not in name:  # the allocations of a graph are not seen
            row["peak MiB"] = way.peak_bytes(batch, patch, device) / 2**20
        table[name] = rounded(row)
    report.facts["TFLOP/s of a matrix product"] = rounded({name: rate / 1e12 for name, rate in products.items()})
    report.facts["ways"] = table
    state_hours(report, runs[-1], batch, patch)
    return min(list(ways)[1:], key=lambda name: runs[-1][name])


@contextmanager
def noise_cache(count: int, side: int) -> Iterator[PatchCache]:
    """Yield a cache of ``count`` HR images of noise, ``side`` pixels a side, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="fmen-gpu-") as name:
        for i in range(count):
            noise = np.random.default_rng(i).integers(256, size=(side, side, 3), dtype=np.uint8)
            write_image(Path(name, f"images/HR/{i:04d}.png"), noise)
        dataset = open_dataset(Path(name, "images"), scale=SCALE)
        yield PatchCache(prepare_cache(dataset, Path(name, "cache.h5"), progress=False))


def feeds(
    report: Report, name: str, way: Way, cache: PatchCache, device: str, batch: int, patch: int, **timing: int
) -> None:
    """Add the rates of one way, fed from different places; the patches cut on the device are the loader's."""
    recipe, place = make_recipe({"steps": 1, "learning_rate": 5e-4, "device": device}), torch.device(device)
    sampler = PatchSampler([cache], patch=patch, batch=batch)
    resident = ResidentPatches(sampler, place)
    for mine, reference in zip(resident.batch(0), sampler.batch(0), strict=True):
        if not torch.equal(mine.cpu(), reference):
            raise SystemExit("a batch that was cut on the device is not the loader's")
    report.checks["batches cut on the device and by the loader, that differ"] = 0
    loader, steps, uploads = sampler.batches(0, ENDLESS, **LOADER[device]), itertools.count(), Copies(place)
    actions: dict[str, Action] = {
        "one batch": way.on(batch, patch, device),
        "patches cut on the device": lambda: way.take(*to_floats(*resident.batch(next(steps)), recipe, uploads)),
        "the loader": lambda: way.take(*to_floats(*next(loader), recipe, uploads)),
    }
    found = [{feed: 1 / s for feed, s in repeated(actions, **timing).items()} for _ in range(2)]
    loader.close()
    for feed in list(actions)[1:]:
        what = f"training steps, {name}, fed from {feed}"
        report.compare(what, "the same on one batch that stays", "steps/s", found, (feed, "one batch"), FED)
    shares = {feed: 1 - median(run[feed] / run["one batch"] for run in found) for feed in list(actions)[1:]}
    report.facts[f"share of the time of a step that the feed takes, {name}"] = rounded(shares)


@torch.inference_mode()
def networks(
    report: Report, names: Sequence[str], device: str, sizes: Sequence[tuple[int, int]], rounds: int, deadline: float
) -> None:
    """Add time and peak memory of every network in every precision, and its share of a matrix product.

    ``deadline`` is a value of ``time.monotonic()``.
    """
    table: dict[str, Mapping[str, float]] = {}
    for name in names:
        if time.monotonic() > deadline:
            print(f"{name}: left out: no time is left")
            continue
        inference = reparameterize(create_model(name))
        macs = {size: complexity(inference, lr_size=size).macs for size in sizes}
        for precision in DTYPES:
            try:
                upscaler = Upscaler(create_model(name), device=device, precision=precision, tile=None)
                row: dict[str, float] = {}
                for size in sizes:
                    row |= network(upscaler, size, macs[size], report.facts["TFLOP/s of a matrix product"], rounds)
            except ValueError as error:
                print(f"{name}, {precision}: left out: {error}")
                continue
            table[f"{name}, {precision}"] = rounded(row)
    report.facts["networks"] = table


def network(
    upscaler: Upscaler, size: tuple[int, int], macs: float, products: Mapping[str, float], rounds: int
) -> dict[str, float]:
    """Return the figures of a network for an image of one size, by title."""
    (height, width), precision = size, upscaler.precision
    lr = photograph(width, height)
    x = torch.rand(1, 3, height, width, device=upscaler.device) * upscaler.data_range
    x = x.contiguous(memory_format=upscaler.memory_format)
    seconds = repeated({"network": partial(upscaler.model, x)}, 1, rounds)["network"]
    for _ in range(WARMUP + 1):
        upscaler(lr)
    whole = repeated({"upscaler": partial(upscaler, lr)}, 1, rounds)["upscaler"]
    figures = {"ms": 1e3 * seconds, "image to image, ms": 1e3 * whole}
    figures["MiB"] = peak_memory(upscaler.model, x).allocated_bytes / 2**20
    figures["share"] = 2 * macs / seconds / 1e12 / products[precision]
    return {f"{width}x{height}, {title}": value for title, value in figures.items()}


def large(report: Report, device: str, sizes: Sequence[tuple[int, int]], rounds: int) -> None:
    """Add the time per LR pixel of FMEN-S from image to image, for each size; large images are streamed in strips."""
    upscaler, found = Upscaler(create_model("fmen-s"), device=device, precision="auto"), dict[str, float]()
    for height, width in sizes:
        seconds = repeated({"upscaler": partial(upscaler, photograph(width, height))}, 1, rounds)["upscaler"]
        found[f"{width}x{height}"] = 1e9 * seconds / (height * width)
    report.facts[f"ns per LR pixel from image to image, fmen-s in {upscaler.precision}"] = rounded(found)


def run(
    runs: int,
    *,
    device: str = "cuda",
    batch: int = 0,
    patch: int = 0,
    steps: int = 20,
    images: tuple[int, int] = (100, 1024),
    sizes: Sequence[tuple[int, int]] = SIZES,
    large_size: tuple[int, int] = (3000, 4000),
    names: Sequence[str] = (),
) -> Report:
    """Check and measure; batch and patch are the recipe ``paper``'s unless given."""
    deadline = time.monotonic() + LIMIT
    paper = load_recipe("paper")
    batch, patch = batch or paper.batch, patch or paper.patch
    report = Report("gpu")
    check(report)
    ways = make_ways(device)
    timing = {"steps": steps, "rounds": runs}
    quickest = training(report, ways, device, batch, patch, **timing)
    with noise_cache(*images) as cache:
        feeds(report, quickest, ways[quickest], cache, device, batch, patch, **timing)
    large(report, device, (sizes[-1], large_size), runs)
    networks(report, names or default_names(), device, sizes, runs, deadline)
    return report


if __name__ == "__main__":
    small = {"device": "cpu", "batch": 2, "patch": 8, "steps": 1, "images": (2, 48), "names": ("fmen-s", "span")}
    small |= {"sizes": ((12, 16),), "large_size": (200, 300)}
    main(__doc__, run, small, device={"default": "cuda", "help": "cuda or cpu"})
