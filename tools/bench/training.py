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
from collections.abc import Mapping
from statistics import median

from measure import Action, Report, in_turns, main
from ways import PUBLISHED, TARGETS, Way, check, ours, published, state_hours


def seconds(action: Action) -> float:
    """Return how long an action takes once."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def compare(report: Report, ways: Mapping[str, Way], runs: int, rounds: int, batch: int, patch: int) -> None:
    """Add the rows of time and of peak memory, and the step after which compiling has saved its time."""
    steps = {name: way.on(batch, patch) for name, way in ways.items()}
    compiling = {name: seconds(step) for name, step in steps.items() if "compiled" in name}
    times = [in_turns(steps, rounds=rounds) for _ in range(runs)]
    peaks = [{name: float(way.peak_bytes(batch, patch)) for name, way in ways.items()}]
    names = [name for name in ways if name != "published"]
    for name in names:
        what = f"training step, {batch} patches of {patch}x{patch}, {name}"
        report.compare(what, PUBLISHED, "s", times, (name, "published"), TARGETS[name.split(",")[0]])
    for name in names:
        what = f"peak memory of that step, {name}"
        report.compare(what, PUBLISHED, "bytes", peaks, (name, "published"), 1 / 3, "at most")
    report.facts["compiling"] = table = {}
    for name, first in compiling.items():
        step = median(found[name] for found in times)
        saved = median(found[name.split(",")[0]] for found in times) - step
        pays = round((first - step) / saved) if saved > 0 else "never"
        table[name] = {"seconds to compile": first, "steps after which compiling pays off": pays}


def run(runs: int, *, batch: int = 16, patch: int = 48, rounds: int = 3, paper: tuple[int, int] = (64, 64)) -> Report:
    """Check and measure."""
    report = Report("training")
    check(report)
    eager = {"published": published(), **{precision: ours(precision) for precision in TARGETS}}
    with tempfile.TemporaryDirectory(prefix="fmen-compiled-") as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # otherwise an earlier compilation is found
        compiled = {f"{precision}, compiled": ours(precision, {}) for precision in TARGETS}
        compare(report, eager | compiled, runs, rounds, batch, patch)
    state_hours(report, in_turns({name: way.on(*paper) for name, way in eager.items()}, rounds=1), *paper)
    return report


if __name__ == "__main__":
    main(__doc__, run, {"batch": 2, "patch": 8, "rounds": 1, "paper": (2, 8)})
