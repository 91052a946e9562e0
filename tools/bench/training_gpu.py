"""Training steps per second on a GPU with the paper's batch: ways of training, feeds, use of the card.

``training.py`` runs this where there is a GPU. Batches of 64 patches of 64x64 LR pixels, x4:

- the ways: published (fp32, eager, NCHW); ours in fp32 and in bf16, eager, compiled, and compiled with CUDA graphs, on
  one batch that stays on the GPU;
- the feeds of the fastest way: that batch; images on the GPU, from which patches are cut there; the loader.

The shares relate to a product of large matrices of the same precision and to a copy of memory in the same run.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
import torch
from measure import Action, Report, in_turns
from roofs import account, copy_rate, matmul_rate, total
from torch import Tensor
from ways import PUBLISHED, SCALE, TARGETS, Way, check, ours, published, state_hours

from fmen.training.feed import ResidentPatches, to_device
from fmen.training.recipe import load_recipe, make_recipe
from fmen.training.setup import compiles
from fmen_data import PatchCache, PatchSampler, open_dataset, prepare_cache, write_image

Batch = tuple[Tensor, Tensor]
ENDLESS = 10**9
FED = 0.95
"""Target: share of the rate on one batch that the trainer reaches with the loader."""


@contextmanager
def synthetic_cache(count: int, side: int) -> Iterator[PatchCache]:
    """Yield a cache of ``count`` HR images of noise, ``side`` pixels a side, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="fmen-training-") as name:
        folder = Path(name)
        for i in range(count):
            noise = np.random.default_rng(i).integers(256, size=(side // 8, side // 8, 3), dtype=np.uint8)
            write_image(folder / f"images/HR/{i:04d}.png", np.repeat(np.repeat(noise, 8, 0), 8, 1))
        dataset = open_dataset(folder / "images", scale=SCALE)
        yield PatchCache(prepare_cache(dataset, folder / "cache.h5", progress=False))


def check_resident(report: Report, sampler: PatchSampler, resident: ResidentPatches, steps: int = 4) -> None:
    """Verify that patches cut on the device are the loader's."""
    for step in range(steps):
        for mine, reference in zip(resident.batch(step), sampler.batch(step), strict=True):
            if not torch.equal(mine.cpu(), reference):
                raise SystemExit(f"batch {step}, cut on the device, is not the loader's")
    report.checks["batches cut on the device and by the loader, that differ"] = 0


def make_ways(device: str) -> dict[str, Way]:
    """Return all ways by name; compiled ones where there is a compiler."""
    eager = {"published": published(device), "fp32": ours("fp32", device=device), "bf16": ours("bf16", device=device)}
    if not compiles(make_recipe({"steps": ENDLESS, "learning_rate": 5e-4, "compile": "auto"}), torch.device(device)):
        return eager
    quick = {"bf16, compiled": {}, "bf16, compiled, CUDA graphs": {"mode": "reduce-overhead"}}
    return eager | {name: ours("bf16", settings, device) for name, settings in quick.items()}


def rates(actions: Mapping[str, Action], runs: int, steps: int, rounds: int) -> list[dict[str, float]]:
    """Return the steps per second of each action in every run; a timing takes ``steps`` of them."""

    def several(step: Action) -> Action:
        return lambda: [step() for _ in range(steps)]

    grouped = {name: several(action) for name, action in actions.items()}
    times = [in_turns(grouped, rounds=rounds) for _ in range(runs)]
    return [{name: steps / seconds for name, seconds in found.items()} for found in times]


def compare_ways(
    report: Report, ways: Mapping[str, Way], found: Sequence[Mapping[str, float]], device: str, batch: int, patch: int
) -> None:
    """Add the rows of the ways on one batch, and of their memory."""
    for name in [name for name in ways if name != "published"]:
        what = f"training steps, {batch} patches of {patch}x{patch}, {name}"
        report.compare(what, PUBLISHED, "steps/s", found, (name, "published"), TARGETS[name.split(",")[0]])
    names = [name for name in ways if "graphs" not in name]
    peaks = [{name: float(ways[name].peak_bytes(batch, patch, device)) for name in names}]
    for name in names[1:]:
        what = f"peak memory of such a step, {name}"
        report.compare(what, PUBLISHED, "bytes", peaks, (name, "published"), 1 / 3, "at most")


def compare_feeds(
    report: Report, name: str, way: Way, cache: PatchCache, device: str, batch: int, patch: int, **timing: int
) -> None:
    """Add the rows of one way, fed from different places."""
    recipe, place = make_recipe({"steps": 1, "learning_rate": 5e-4, "device": device}), torch.device(device)
    sampler = PatchSampler([cache], patch=patch, batch=batch)
    resident = ResidentPatches(sampler, place)
    check_resident(report, sampler, resident)
    steps = itertools.count()
    loaders = {threads: sampler.batches(0, ENDLESS, threads=threads, prefetch=2 * threads) for threads in (1, 4)}
    feeds: dict[str, Action] = {
        "one batch": way.on(batch, patch, device),
        "images on the device": lambda: way.take(*to_device(*resident.batch(next(steps)), recipe, place)),
        "the loader": lambda: way.take(*to_device(*next(loaders[1]), recipe, place)),
        "the loader with 4 threads": lambda: way.take(*to_device(*next(loaders[4]), recipe, place)),
    }
    found = rates(feeds, **timing)
    for loader in loaders.values():
        loader.close()
    for feed in list(feeds)[1:]:
        what = f"training steps, {name}, fed from {feed}"
        report.compare(what, "the same on one batch that stays", "steps/s", found, (feed, "one batch"), FED)


def use_of_card(
    report: Report, ways: Mapping[str, Way], speeds: Mapping[str, float], device: str, batch: int, patch: int
) -> None:
    """Add the share of the device's arithmetic and bandwidth that each way uses."""
    small = device == "cpu"
    copied = copy_rate(2**20 if small else 2**32, device)
    products = {
        precision: matmul_rate(dtype, 64 if small else 8192, device)
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    }
    report.facts["TFLOP/s of a matrix product"] = {name: round(rate / 1e12, 1) for name, rate in products.items()}
    report.facts["GB/s of a copy"] = round(copied / 1e9)
    table: dict[str, dict[str, float]] = {}
    for name, speed in speeds.items():
        eager = name.split(",")[0]  # the operators of compiled code are not seen
        book = account(ways[eager].on(batch, patch, device), repeats=1)
        flops, traffic = total(book, "flops") * speed, total(book, "bytes") * speed
        table[name] = {
            "steps per second": round(speed, 2),
            "TFLOP/s": round(flops / 1e12, 2),
            "share of a matrix product": round(flops / products["bf16" if eager == "bf16" else "fp32"], 3),
            "share of a copy": round(traffic / copied, 3),
        }
    report.facts["ways"] = table


def run(
    runs: int,
    *,
    device: str = "cuda",
    batch: int = 0,
    patch: int = 0,
    steps: int = 20,
    rounds: int = 3,
    images: tuple[int, int] = (100, 1024),
) -> Report:
    """Check and measure; batch and patch are the recipe ``paper``'s unless given."""
    paper = load_recipe("paper")
    batch, patch = batch or paper.batch, patch or paper.patch
    report = Report("training")
    check(report)
    ways = make_ways(device)
    actions = {name: way.on(batch, patch, device) for name, way in ways.items()}
    timing = {"runs": runs, "steps": steps, "rounds": rounds}
    found = rates(actions, **timing)
    compare_ways(report, ways, found, device, batch, patch)
    speeds = {name: median(rate[name] for rate in found) for name in ways}
    use_of_card(report, ways, speeds, device, batch, patch)
    quickest = max(list(ways)[1:], key=lambda name: speeds[name])
    with synthetic_cache(*images) as cache:
        compare_feeds(report, quickest, ways[quickest], cache, device, batch, patch, **timing)
    state_hours(report, {name: 1 / speed for name, speed in speeds.items()}, batch, patch)
    return report
