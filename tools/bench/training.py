"""A training step of FMEN-S x4: its time and its memory, against the published code.

    python tools/bench/training.py

Published is the expanded form, eager, NCHW, fp32, with PyTorch's default Adam (``published.py``). Ours is what ``fmen
train`` runs: online re-parameterization, channels-last, fused Adam, in fp32 and under bf16 autocast, eager and
compiled. That both compute the same step is checked first, with the eager code. A step is forward, L1, backward and
Adam on batches in memory.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from measure import Action, Report, in_turns, main
from ways import PUBLISHED, TARGETS, Way, check, ours, published, state_hours

BATCH, PATCH = 16, 48


def compile_all(steps: Mapping[str, Action]) -> dict[str, dict[str, Any]]:
    """Return the seconds of the first step of each compiled way."""
    found = {}
    for name, step in steps.items():
        begun = time.perf_counter()
        step()
        found[name] = {"seconds to compile": time.perf_counter() - begun}
    return found


def compare(report: Report, ways: Mapping[str, Way], runs: int, rounds: int, batch: int, patch: int) -> None:
    """Add the rows of time and of peak memory, and the step after which compiling has saved its time."""
    steps = {name: way.on(batch, patch) for name, way in ways.items()}
    compiling = compile_all({name: step for name, step in steps.items() if "compiled" in name})
    times = [in_turns(steps, rounds=rounds) for _ in range(runs)]
    peaks = [{name: float(way.peak_bytes(batch, patch)) for name, way in ways.items()} for _ in range(runs)]
    names = [name for name in ways if name != "published"]
    for name in names:
        sides, what = (name, "published"), f"training step, {batch} patches of {patch}x{patch}, {name}"
        report.compare(what, PUBLISHED, "s", times, sides, TARGETS[name.split(",")[0]])
    for name in names:
        what = f"peak memory of that step, {name}"
        report.compare(what, PUBLISHED, "bytes", peaks, (name, "published"), 1 / 3, "at most")
    for name, row in compiling.items():
        saved = median(found[name.split(",")[0]] - found[name] for found in times)
        first = row["seconds to compile"] - median(found[name] for found in times)
        row["steps after which compiling pays off"] = round(first / saved) if saved > 0 else "never"
    report.facts["compiling"] = compiling


def curves(
    report: Report, ways: Mapping[str, Way], batches: Sequence[int], patches: Sequence[int], rounds: int
) -> None:
    """Add the time per LR pixel by batch and by patch."""
    plots = {
        ("batch", f"batch, of {PATCH}x{PATCH} patches"): [(batch, batch, PATCH) for batch in batches],
        ("patch", f"side of the LR patches, {BATCH} of them"): [(patch, BATCH, patch) for patch in patches],
    }
    for (kind, x), places in plots.items():
        lines: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for place, batch, patch in places:
            for name, seconds in in_turns({n: way.on(batch, patch) for n, way in ways.items()}, rounds=rounds).items():
                lines[name].append((place, 1e9 * seconds / (batch * patch**2)))
        report.curve(f"Time of a training step per LR pixel by {kind}", x, "ns per LR pixel", lines)


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
    """Check and measure."""
    report = Report("training")
    check(report)
    eager = {"published": published(), **{precision: ours(precision) for precision in TARGETS}}
    with tempfile.TemporaryDirectory(prefix="fmen-compiled-") as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # otherwise an earlier compilation is found
        compiled = {f"{precision}, compiled": ours(precision, {}) for precision in TARGETS}
        compare(report, eager | compiled, runs, rounds, batch, patch)
    curves(report, {name: eager[name] for name in TARGETS}, batches, patches, min(rounds, 2))
    state_hours(report, in_turns({name: way.on(*paper) for name, way in eager.items()}, rounds=min(rounds, 2)), *paper)
    return report


if __name__ == "__main__":
    main(__doc__, run, {"batch": 2, "patch": 8, "rounds": 1, "batches": (1, 2), "patches": (8,), "paper": (2, 8)})
