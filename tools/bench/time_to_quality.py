"""Minutes to a PSNR on Set5, trained from scratch: by recipe, optimizer and feed, and with the published code.

    python tools/bench/time_to_quality.py --data DIV2K --val Set5 [--limit MINUTES] [--only cpu-muon ...]

Every run is ``fmen train`` with a validation every 100 steps, and ends at the last level or at the limit. Its minutes
include compiling and validations. ``--limit 0`` trains nothing: the table then has the run of the bundled weights only,
whose log is in ``results/runs``.

The published code computes the same steps as ``paper-adam``, up to rounding (``training.py`` verifies it). Its row has
the steps of that run, or an extrapolation of its PSNR over the logarithm of the step, times the seconds of a published
step in ``results/speed/training.json``.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from measure import RESULTS, Report, main

LEVELS = (31.0, 31.5, 31.8)
RUNS = {
    "cpu-muon": ("cpu",),
    "cpu-muon-device": ("cpu", "feed=device"),
    "cpu-adam": ("cpu", "optimizer=adam", "learning_rate=2e-3"),
    "paper-adam": ("paper", "batch=16", "patch=48", "precision=fp32"),
}
"""Recipe and further keys of each run. ``feed=device`` cuts patches from images that stay in memory as uint8."""
BUNDLED = RESULTS.parent / "runs" / "fmen-s_x4.jsonl"
SHOWN = "the bundled weights (cpu with pseudo-labels, two shared cores)"

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


def row_of(curve: Sequence[Record]) -> Row:
    """Return the minutes to every level, and where the curve ends."""
    best = max(curve, key=lambda record: record["psnr"])
    row = {}
    for level in LEVELS:
        found = first_at(curve, level)
        row[f"{level} dB"] = f"{found['seconds'] / 60:.0f} min" if found else "not reached"
    return row | {"best": f"{best['psnr']:.2f} dB after {best['seconds'] / 60:.0f} min, {best['step']:,} steps"}


def published_row(curve: Sequence[Record], seconds: float) -> Row:
    """Return the minutes of the published code, whose steps take ``seconds``; beyond the curve, extrapolated."""
    later = curve[len(curve) // 2 :]
    slope, start = np.polyfit([math.log(record["step"]) for record in later], [r["psnr"] for r in later], 1)
    row = {}
    for level in LEVELS:
        found = first_at(curve, level)
        if found or slope > 0:
            step = found["step"] if found else math.exp(min((level - start) / slope, 50))
            row[f"{level} dB"] = f"{step * seconds / 60:,.0f} min" + ("" if found else " (extrapolated)")
    return row | {"best": f"the curve of paper-adam, {seconds:.2f} s per step"}


def train(keys: Sequence[str], data: str, val: str, limit: float, levels: Sequence[float] = LEVELS) -> list[Record]:
    """Train until the last level is reached, or for ``limit`` minutes; return the validations."""
    curve: list[Record] = []
    with tempfile.TemporaryDirectory(prefix="fmen-quality-") as folder:
        out, begun = Path(folder) / "run", time.monotonic()
        settings = [part for key in (*keys[1:], "val_every=100", "log_every=100") for part in ("--set", key)]
        command = ["train", "--recipe", keys[0], "--data", data, "--val-data", val, "--out", str(out), *settings]
        process = subprocess.Popen([*FMEN, *command])
        while process.poll() is None:
            time.sleep(1)
            curve = read_curve(out / "metrics.jsonl")
            if first_at(curve, max(levels)) or time.monotonic() - begun > 60 * limit:
                process.terminate()
                process.wait()
        curve = read_curve(out / "metrics.jsonl")
    if not curve:
        raise SystemExit(f"fmen {' '.join(command)} ended with status {process.returncode} before a validation")
    return curve


def run(runs: int, *, data: str = "data", val: str = "data", limit: float = 30, only: Sequence[str] = ()) -> Report:
    """Train and tabulate; ``runs`` is not used, as a run takes minutes."""
    report = Report("time_to_quality")
    report.facts["minutes to a PSNR on Set5"] = table = {SHOWN: row_of(read_curve(BUNDLED))}
    for name in (only or RUNS) if limit > 0 else ():
        curve = train(RUNS[name], data, val, limit)
        table[name] = row_of(curve)
        if name == "paper-adam":
            rows = json.loads((RESULTS / "training.json").read_text())["comparisons"]
            step = next(row for row in rows if row["what"] == "training step, 16 patches of 48x48, fp32")
            table["the published code"] = published_row(curve, median(step["theirs"]))
    return report


if __name__ == "__main__":
    folder = {"default": "data", "help": "as for fmen train (default: data)"}
    minutes = {"type": float, "default": 30, "help": "minutes of a run (default: 30)"}
    main(__doc__, run, {"limit": 0}, data=folder, val=folder, limit=minutes, only={"nargs": "+", "choices": RUNS})
