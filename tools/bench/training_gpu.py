"""Training steps per second on a GPU, for the paper's batch; what feeds them; how much of the card they use.

``training.py`` runs this where there is a GPU. Batches of 64 patches of 64x64 LR pixels, x4:

- the ways: as published (fp32, eager, NCHW); ours in fp32 (as the recipe ``paper``) and in bf16, eager, compiled, and
  compiled with CUDA graphs, on one batch of floats that stays on the GPU;
- the feeds, for the quickest of them: that one batch; images that lie on the GPU as uint8, from which patches are cut
  and augmented there; the loader, as the trainer reads it and with more threads.

The shares are of what this GPU reaches in the same run: in a product of large matrices of the same precision, and in
copying memory, if every operator of the eager step read and wrote its tensors once. The arithmetic is each way's own:
the published one's includes what collapsing saves. cuDNN tries its algorithms for every way, the published one
included.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
import torch
from measure import Comparison, Report, in_turns
from operations import account, copy_rate, matmul_rate, total
from torch import Tensor
from training import PUBLISHED, SCALE, TARGETS, Way, check, ours, peak_bytes, published, state_hours

from fmen.training.feed import ResidentPatches, to_device
from fmen.training.recipe import load_recipe, make_recipe
from fmen.training.setup import compiles
from fmen_data import PatchCache, PatchSampler, open_dataset, prepare_cache, write_image

Batch = tuple[Tensor, Tensor]
ENDLESS = 10**9
FED = 0.95
"""The share of the rate on one batch that the trainer, fed by the loader, should reach."""


@contextmanager
def synthetic_cache(count: int, side: int) -> Iterator[PatchCache]:
    """A cache of HR images of noise, ``side`` pixels a side, in a folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="fmen-training-"))
    try:
        for i in range(count):
            noise = np.random.default_rng(i).integers(256, size=(side // 8, side // 8, 3), dtype=np.uint8)
            write_image(folder / f"images/HR/{i:04d}.png", np.repeat(np.repeat(noise, 8, 0), 8, 1))
        dataset = open_dataset(folder / "images", scale=SCALE)
        yield PatchCache(prepare_cache(dataset, folder / "cache.h5", progress=False))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_resident(report: Report, sampler: PatchSampler, resident: ResidentPatches, steps: int = 4) -> None:
    """Make sure that patches cut on the device are the loader's."""
    for step in range(steps):
        for mine, reference in zip(resident.batch(step), sampler.batch(step), strict=True):
            if not torch.equal(mine.cpu(), reference):
                raise SystemExit(f"batch {step}, cut on the device, is not the loader's")
    report.checks["batches cut on the device and by the loader, that differ"] = 0


def make_ways(device: str) -> dict[str, Way]:
    """Every way by its name; compiled ones where there is a compiler."""
    eager = {"published": published(device), "fp32": ours("fp32", device=device), "bf16": ours("bf16", device=device)}
    if not compiles(make_recipe({"steps": ENDLESS, "learning_rate": 5e-4, "compile": "auto"}), torch.device(device)):
        return eager
    quick = {"bf16, compiled": {}, "bf16, compiled, CUDA graphs": {"mode": "reduce-overhead"}}
    return eager | {name: ours("bf16", settings, device) for name, settings in quick.items()}


def several(step: Callable[[], object], count: int) -> Callable[[], None]:
    """``count`` steps, of which a clock that waits for the GPU sees one."""

    def action() -> None:
        for _ in range(count):
            step()

    return action


def rates(actions: Mapping[str, Callable[[], object]], runs: int, steps: int, rounds: int) -> dict[str, list[float]]:
    """Steps per second of each, in every run."""
    grouped = {name: several(action, steps) for name, action in actions.items()}
    times = [in_turns(grouped, rounds=rounds) for _ in range(runs)]
    return {name: [steps / seconds[name] for seconds in times] for name in actions}


def compare_ways(
    report: Report, ways: Mapping[str, Way], device: str, batch: int, patch: int, runs: int, steps: int, rounds: int
) -> dict[str, list[float]]:
    """The ways on one batch, and their memory; returns their rates."""
    found = rates({name: way.on(batch, patch, device) for name, way in ways.items()}, runs, steps, rounds)
    of = f"{batch} patches of {patch}x{patch}"
    for name in list(ways)[1:]:
        target = TARGETS[name.split(",")[0]]
        what = f"training steps, {of}, {name}"
        report.comparisons.append(Comparison(what, PUBLISHED, "steps/s", found[name], found["published"], target))
    theirs = float(peak_bytes(ways["published"], batch, patch, device))
    for name in [name for name in ways if name in ("fp32", "bf16", "bf16, compiled")]:
        mine = float(peak_bytes(ways[name], batch, patch, device))
        row = Comparison(f"peak memory of such a step, {name}", PUBLISHED, "bytes", [mine], [theirs], 1 / 3, "at most")
        report.comparisons.append(row)
    return found


def compare_feeds(
    report: Report, name: str, way: Way, cache: PatchCache, device: str, batch: int, patch: int, **timing: int
) -> None:
    """One way, fed from different places."""
    recipe = make_recipe({"steps": 1, "learning_rate": 5e-4, "device": device})
    sampler = PatchSampler([cache], patch=patch, batch=batch)
    resident = ResidentPatches(sampler, torch.device(device))
    check_resident(report, sampler, resident)

    def floats(lr: Tensor, hr: Tensor) -> Batch:
        layout = torch.channels_last
        return lr.to(torch.float32, memory_format=layout), hr.to(torch.float32, memory_format=layout)

    drawn = iter(range(ENDLESS))
    loaders = {threads: sampler.batches(0, ENDLESS, threads=threads, prefetch=2 * threads) for threads in (1, 4)}
    feeds: dict[str, Callable[[], object]] = {
        "one batch": way.on(batch, patch, device),
        "images on the device": lambda: way.take(*floats(*resident.batch(next(drawn)))),
        "the loader": lambda: way.take(*to_device(*next(loaders[1]), recipe, torch.device(device))),
        "the loader with 4 threads": lambda: way.take(*to_device(*next(loaders[4]), recipe, torch.device(device))),
    }
    found = rates(feeds, **timing)
    for loader in loaders.values():
        loader.close()
    for feed in list(feeds)[1:]:
        what = f"training steps, {name}, fed from {feed}"
        against = "the same on one batch that stays"
        report.comparisons.append(Comparison(what, against, "steps/s", found[feed], found["one batch"], FED))


def use_of_card(
    report: Report, ways: Mapping[str, Way], found: Mapping[str, list[float]], device: str, batch: int, patch: int
) -> None:
    """What share of the card's arithmetic and bandwidth each way uses."""
    small = device == "cpu"
    copied = copy_rate(2**20 if small else 2**32, device)
    multiplied = {
        precision: matmul_rate(dtype, 64 if small else 8192, device)
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    }
    report.facts["TFLOP/s of a matrix product"] = {name: round(rate / 1e12, 1) for name, rate in multiplied.items()}
    report.facts["GB/s of a copy"] = round(copied / 1e9)
    table: dict[str, dict[str, float]] = {}
    for name in ways:
        eager = name.split(",")[0]  # compiled code would show its account little but its own calls
        book = account(ways[eager].on(batch, patch, device), repeats=1)
        seconds = 1 / median(found[name])
        flops, traffic = total(book, "flops") / seconds, total(book, "bytes") / seconds
        table[name] = {
            "steps per second": round(1 / seconds, 2),
            "TFLOP/s": round(flops / 1e12, 2),
            "share of a matrix product": round(flops / multiplied["bf16" if eager == "bf16" else "fp32"], 3),
            "share of a copy": round(traffic / copied, 3),
        }
        if name == eager:
            table[name]["operators"] = total(book, "calls")
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
    found = compare_ways(report, ways, device, batch, patch, runs, steps, rounds)
    use_of_card(report, ways, found, device, batch, patch)
    quickest = max(list(ways)[1:], key=lambda name: median(found[name]))
    with synthetic_cache(*images) as cache:
        compare_feeds(
            report, quickest, ways[quickest], cache, device, batch, patch, runs=runs, steps=steps, rounds=rounds
        )
    state_hours(report, {name: 1 / median(found[name]) for name in ways}, batch, patch)
    return report
