"""A training step of FMEN-S x4: its time and its memory, against the published code.

    python tools/bench/training.py

Published is the expanded form, eager, NCHW, fp32, with PyTorch's default Adam (``published_training.py``). Ours is what
``fmen train`` runs: online re-parameterization, channels-last, fused Adam, in fp32 and under bf16 autocast, eager and
compiled. Both compute the same step, which is checked first. A step is forward, L1, backward and Adam on batches in
memory. With a CUDA GPU, ``training_gpu.py`` measures that one instead.
"""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, cast

import torch
from measure import Action, Report, in_turns, main
from torch import nn
from ways import (
    PUBLISHED,
    SCALE,
    TARGETS,
    ZERO_GRADIENTS,
    Way,
    check,
    difference,
    ours,
    published,
    randomised,
    state_hours,
    step_of,
)

BATCH, PATCH = 16, 48


def check_compiled(report: Report, batch: int = 4, patch: int = 16) -> None:
    """Verify that compiling changes no gradient."""
    model = randomised(torch.float32).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    twin = copy.deepcopy(model)
    lr, hr = (torch.rand(batch, 3, side, side) * 255 for side in (patch, SCALE * patch))
    plain = step_of(model, model, lr, hr)
    quick = step_of(cast(nn.Module, torch.compile(twin)), twin, lr, hr)
    apart = max(difference(quick[0], plain[0], ZERO_GRADIENTS), difference(quick[1], plain[1]))
    if apart > 1e-3:
        raise SystemExit(f"compiled, a gradient differs by {apart:.1e} from the eager one in fp32")
    report.checks["relative difference that compiling makes to a gradient, in fp32"] = apart


def compile_all(steps: Mapping[str, Action]) -> dict[str, dict[str, Any]]:
    """Compile without and with PyTorch's cache; return the seconds of the first step in each case."""
    found: dict[str, dict[str, Any]] = {name: {} for name in steps}
    for column in ("seconds to compile", "seconds when PyTorch has it cached"):
        torch._dynamo.reset()
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            found[name][column] = time.perf_counter() - begun
    return found


def compare(report: Report, ways: Mapping[str, Way], runs: int, rounds: int, batch: int, patch: int) -> None:
    """Add the rows of time and of peak memory."""
    steps = {name: way.on(batch, patch) for name, way in ways.items()}
    compiling = compile_all({name: step for name, step in steps.items() if "compiled" in name})
    times = [in_turns(steps, rounds=rounds) for _ in range(runs)]
    peaks = [{name: float(way.peak_bytes(batch, patch)) for name, way in ways.items()} for _ in range(runs)]
    names = [name for name in ways if name != "published"]
    for name in names:
        what = f"training step, {batch} patches of {patch}x{patch}, {name}"
        precision = name.split(",")[0]
        report.compare(what, PUBLISHED, "s", times, (name, "published"), TARGETS[precision])
        if name in compiling:
            saved = median(found[precision] - found[name] for found in times)
            first = compiling[name]["seconds to compile"] - median(found[name] for found in times)
            compiling[name]["steps after which it has paid"] = round(first / saved) if saved > 0 else "never"
    for name in names:
        report.compare(
            f"peak memory of that step, {name}", PUBLISHED, "bytes", peaks, (name, "published"), 1 / 3, "at most"
        )
    report.facts["compiling"] = compiling


def curves(report: Report, ways: Mapping[str, Way], batches: Sequence[int], patches: Sequence[int]) -> None:
    """Add the time by batch and by patch, per step and per LR pixel."""
    for kind, places in (("batch", batches), ("patch", patches)):
        lines: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        pixels: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for place in places:
            batch, patch = (place, PATCH) if kind == "batch" else (BATCH, place)
            for name, seconds in in_turns({n: way.on(batch, patch) for n, way in ways.items()}, rounds=2).items():
                lines[name].append((place, 1000 * seconds))
                pixels[name].append((place, 1e9 * seconds / (batch * patch**2)))
        x = f"batch, of {PATCH}x{PATCH} patches" if kind == "batch" else f"side of the LR patches, {BATCH} of them"
        report.curve(f"Time of a training step by {kind}", x, "ms", lines)
        report.curve(f"Time of a training step per LR pixel by {kind}", x, "ns per LR pixel", pixels)


def run(
    runs: int,
    *,
    batch: int = BATCH,
    patch: int = PATCH,
    rounds: int = 5,
    batches: Sequence[int] = (1, 2, 4, 8, 16, 32),
    patches: Sequence[int] = (16, 32, 48, 64, 96),
    paper: tuple[int, int] = (64, 64),
) -> Report:
    """Check and measure, on the GPU if there is one."""
    if torch.cuda.is_available():
        from training_gpu import run as run_on_gpu

        return run_on_gpu(runs)
    report = Report("training")
    check(report)
    eager = {"published": published(), **{precision: ours(precision) for precision in TARGETS}}
    with tempfile.TemporaryDirectory(prefix="fmen-compiled-") as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # otherwise an earlier compilation is found
        check_compiled(report)
        compiled = {f"{precision}, compiled": ours(precision, {}) for precision in TARGETS}
        compare(report, eager | compiled, runs, rounds, batch, patch)
    curves(report, {name: eager[name] for name in TARGETS}, batches, patches)
    state_hours(report, in_turns({name: way.on(*paper) for name, way in eager.items()}, rounds=2), *paper)
    return report


if __name__ == "__main__":
    main(__doc__, run, {"batch": 2, "patch": 8, "rounds": 1, "batches": (1, 2), "patches": (8,), "paper": (2, 8)})
