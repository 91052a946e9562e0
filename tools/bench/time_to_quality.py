"""Minutes to a PSNR on Set5, trained from scratch: by recipe, optimizer and feed, and with the published code.

    python tools/bench/time_to_quality.py --data DIV2K --val Set5 --out RUNS [--steps 2000] [--only cpu-muon ...]

Every curve is a run of ``fmen train`` with a validation every 100 steps, which ends at the last level or after
``--steps``; a run in ``--out`` that ended is read, one that was interrupted is resumed. The machine may be busy
meanwhile. The minutes are the steps to a level times the seconds of a step, which are measured afterwards with the same
trainer on a quiet machine, in turns; compiling, about a minute, and validations are not part of them.

A run of 15,000 steps of ``cpu-muon``, on pseudo-labels, too, has its log in ``results/runs``. The published code
computes the same steps as ``paper-adam``, up to rounding (``training.py`` verifies it), and takes as many times longer
as ``results/speed/training.json`` says. Beyond the curve, the PSNR of ``paper-adam`` is extrapolated over the logarithm
of the step.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from measure import RESULTS, Report, main

LEVELS = (31.0, 31.5, 31.8)
RUNS = {
    "cpu-muon": ("cpu",),
    "cpu-adam": ("cpu", "optimizer=adam", "learning_rate=2e-3"),
    "paper-adam": ("paper", "batch=16", "patch=48"),
}
"""Recipe and further keys of each run."""
SAME_CURVE = {"cpu-muon, feed=device": "cpu-muon"}
"""``feed=device`` cuts the same patches from uint8 images in memory, so that only the time of a step differs."""
LABELLED_LOG = RESULTS.parent / "runs" / "fmen-s_x4_scratch.jsonl"
LABELLED = "cpu-muon, also on pseudo-labels, 15,000 steps"
PUBLISHED = "the published code"
TIMED = 60
"""Steps of a run that is timed; the last third counts."""

FMEN = (sys.executable, "-m", "fmen")

Record = dict[str, Any]
Row = dict[str, str]


def read_curve(log: Path) -> list[Record]:
    """Return the validations in a ``metrics.jsonl``; its last line may be incomplete."""
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.is_file() else []
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [record for record in records if "psnr" in record]


def first_at(curve: Sequence[Record], level: float) -> Record | None:
    """Return the first validation that reaches a PSNR."""
    return next((record for record in curve if record["psnr"] >= level), None)


def row_of(curve: Sequence[Record], seconds: float, extrapolate: bool = False) -> Row:
    """Return the minutes to every level at ``seconds`` per step, and where the curve ends."""
    later = curve[len(curve) // 2 :]
    row = {}
    for level in LEVELS:
        found = first_at(curve, level)
        row[f"{level} dB"] = f"{found['step'] * seconds / 60:.1f} min" if found else "not reached"
        if not found and extrapolate:
            slope, start = np.polyfit([math.log(record["step"]) for record in later], [r["psnr"] for r in later], 1)
            if slope > 0:
                step = math.exp(min((level - start) / slope, 50))
                row[f"{level} dB"] = f"{step * seconds / 60:,.0f} min (extrapolated)"
    best = max(curve, key=lambda record: record["psnr"])
    return row | {"best": f"{best['psnr']:.2f} dB after {best['step']:,} steps", "ms per step": f"{1e3 * seconds:.0f}"}


def arguments(keys: Sequence[str], data: str, val: str, out: Path) -> list[str]:
    """Return the command line of a run."""
    settings = [part for key in keys[1:] for part in ("--set", key)]
    return ["train", "--recipe", keys[0], "--data", data, "--val-data", val, "--out", str(out), *settings]


def train(command: Sequence[str], out: Path, steps: int, levels: Sequence[float] = LEVELS) -> list[Record]:
    """Train until the last level is reached, or for a number of steps; return the validations."""
    log = out / "metrics.jsonl"

    def ended() -> bool:
        curve = read_curve(log)
        return bool(curve) and (curve[-1]["step"] >= steps or first_at(curve, max(levels)) is not None)

    if not ended():
        every = [part for key in ("val_every", "log_every", "save_every") for part in ("--set", f"{key}=100")]
        process = subprocess.Popen([*FMEN, *command, *every, "--resume", "auto"])
        while process.poll() is None:
            time.sleep(1)
            if ended():
                process.terminate()
                process.wait()
        if not ended():
            raise SystemExit(f"fmen {' '.join(command)} ended with status {process.returncode} before step {steps}")
    return read_curve(log)


def step_seconds(command: Sequence[str], out: Path) -> float:
    """Return the seconds of a step of the trainer, after the first ones, without validations."""
    threads = str(len(os.sched_getaffinity(0)))
    # schedule_steps: what is compiled in a long run is also compiled here.
    keys = (f"log_every={TIMED // 3}", "val_every=1000000", f"steps={TIMED}", "schedule_steps=15000", "warmup=0")
    short = ["--threads", threads, *(part for key in keys for part in ("--set", key))]
    subprocess.run([*FMEN, *command, *short], check=True, stdout=subprocess.DEVNULL)
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return 1 / float(json.loads(lines[-1])["steps_per_second"])


def tabulate(curves: Mapping[str, Sequence[Record]], seconds: Mapping[str, float], ratio: float) -> dict[str, Row]:
    """Return the rows of the table.

    Args:
        curves: The validations of the runs.
        seconds: The seconds of a step, of each run and of those with the same curve.
        ratio: The factor by which the published code's step is slower than that of ``paper-adam``.
    """
    table = {name: row_of(curves[SAME_CURVE.get(name, name)], each) for name, each in seconds.items()}
    if "cpu-muon" in seconds:
        table[LABELLED] = row_of(read_curve(LABELLED_LOG), seconds["cpu-muon"])
    if "paper-adam" in seconds:
        table[PUBLISHED] = row_of(curves["paper-adam"], ratio * seconds["paper-adam"], extrapolate=True)
    return table


def run(
    runs: int,
    *,
    data: str = "data",
    val: str = "data",
    out: Path = Path("runs"),
    steps: int = 2000,
    only: Sequence[str] = tuple(RUNS),
    keys: Sequence[str] = (),
) -> Report:
    """Train, time the steps in ``runs`` rounds, and tabulate; ``keys`` are set in every run."""
    report = Report("time_to_quality")
    curves = {name: train(arguments((*RUNS[name], *keys), data, val, out / name), out / name, steps) for name in only}
    timed = {name: (*RUNS[name], *keys) for name in only}
    timed |= {name: (*timed[other], "feed=device") for name, other in SAME_CURVE.items() if other in timed}
    rounds: dict[str, list[float]] = {name: [] for name in timed}
    with tempfile.TemporaryDirectory(prefix="fmen-quality-") as folder:
        for turn in range(runs):
            for name, each in timed.items():
                trial = Path(folder) / f"{name}-{turn}"
                rounds[name].append(step_seconds(arguments(each, data, val, trial), trial))
    rows = json.loads((RESULTS / "training.json").read_text())["comparisons"]
    step = next(row for row in rows if row["what"] == "training step, 16 patches of 48x48, fp32")
    ratio = median(theirs / ours for theirs, ours in zip(step["theirs"], step["ours"], strict=True))
    table = tabulate(curves, {name: median(each) for name, each in rounds.items()}, ratio)
    report.facts["minutes to a PSNR on Set5"] = table
    return report


if __name__ == "__main__":
    folder = {"default": "data", "help": "as for fmen train (default: data)"}
    limit = {"type": int, "default": 2000, "help": "steps of a run (default: 2000)"}
    place = {"type": Path, "default": Path("runs"), "metavar": "DIR", "help": "folder of the runs (default: runs)"}
    small = {"data": "sample", "val": "sample", "steps": 100, "only": ["cpu-adam"], "keys": ("patch=16", "batch=2")}
    names = {"nargs": "+", "choices": RUNS, "default": tuple(RUNS)}
    main(__doc__, run, small, data=folder, val=folder, out=place, steps=limit, only=names)
