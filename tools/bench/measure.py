"""Timing and reporting that the benchmarks share: two sides in turns, a table of ratios, a JSON file.

Every ratio compares two sides that run in turns in one process, so that a slower machine slows both. A benchmark
repeats its comparison; the median run is the result and the others show the spread.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from skimage.data import astronaut
from torch.utils.benchmark import Measurement, Timer

from fmen_data.atomic import atomic_write_bytes
from fmen_eval.runtime import device_name
from fmen_eval.tables import format_text

RESULTS = Path(__file__).resolve().parents[2] / "results" / "speed"
HEADER = ["what", "against", "ours", "theirs", "ratio", "lowest–highest", "target", ""]

Action = Callable[[], object]
Line = Sequence[tuple[float, float]]


@dataclass
class Report:
    """The result of a benchmark: what was verified before timing, the rows of the table, plots, other figures."""

    name: str
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    checks: dict[str, float | int | str] = field(default_factory=dict)
    curves: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def compare(
        self,
        what: str,
        against: str,
        unit: str,
        runs: Sequence[Mapping[str, float]],
        sides: tuple[str, str],
        target: float,
        goal: str = "at least",
    ) -> None:
        """Add a row to the table.

        Args:
            what: What is measured.
            against: The other side.
            unit: ``"s"``, ``"ms"``, ``"bytes"``, a rate such as ``"pairs/s"``, or ``"cores"``.
            runs: Per run, the figure of each side.
            sides: Names of our side and of the other one.
            target: Of the factor by which ours is better, or, for ``"at most"``, of ours as a share of theirs.
            goal: ``"at least"`` or ``"at most"``.
        """
        ours, theirs = ([run[side] for run in runs] for side in sides)
        direct = goal == "at most" or unit.endswith("/s") or unit == "cores"
        ratios = [a / b if direct else b / a for a, b in zip(ours, theirs, strict=True)]
        ratio, most = median(ratios), goal == "at most"
        row = {"what": what, "against": against, "unit": unit, "ours": ours, "theirs": theirs, "target": target}
        row |= {"goal": goal, "ratio": ratio, "lowest": min(ratios), "highest": max(ratios)}
        self.comparisons.append(row | {"met": ratio <= target if most else ratio >= target})

    def curve(self, title: str, x: str, y: str, lines: Mapping[str, Line]) -> None:
        """Add a plot."""
        self.curves[title] = {"x": x, "y": y, "lines": {name: [list(p) for p in line] for name, line in lines.items()}}

    def show(self) -> None:
        """Print all of it."""
        if self.comparisons:
            print(format_text([HEADER, *map(cells, self.comparisons)], words=range(len(HEADER))))
        for name, value in {**self.checks, **self.curves, **self.facts}.items():
            print(f"{name}: {value}")

    def write(self, path: Path | None = None) -> Path:
        """Write the JSON file, with the machine and the command, to ``path`` or under ``results/speed/``."""
        path = path or RESULTS / f"{self.name}.json"
        command = " ".join(["python", f"tools/bench/{Path(sys.argv[0]).name}", *sys.argv[1:]])
        path.parent.mkdir(parents=True, exist_ok=True)
        record = asdict(self) | {"command": command, "machine": machine()}
        atomic_write_bytes(path, (json.dumps(record, indent=1) + "\n").encode())
        return path


def cells(row: Mapping[str, Any]) -> list[str]:
    """Format a comparison as a row under ``HEADER``."""
    sign, suffix = ("≤", "") if row["goal"] == "at most" else ("≥", "x")
    return [
        row["what"],
        row["against"],
        amount(median(row["ours"]), row["unit"]),
        amount(median(row["theirs"]), row["unit"]),
        f"{factor(row['ratio'])}{suffix}",
        f"{factor(row['lowest'])}–{factor(row['highest'])}",
        f"{sign} {row['target']:.3g}{suffix}",
        "met" if row["met"] else "**missed**",
    ]


def amount(value: float, unit: str) -> str:
    """Format a figure with a unit of its size."""
    if unit in ("s", "ms"):
        seconds = value / 1000 if unit == "ms" else value
        return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
    if unit == "bytes":
        return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"
    return f"{number(value)} {unit}"


def number(value: object) -> str:
    """Format a value of a JSON file; numbers with four digits, or all digits before the point."""
    if not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.4g}"


def factor(value: float) -> str:
    """Format a ratio with about three digits."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"


def in_turns(actions: Mapping[str, Action], *, rounds: int = 5) -> dict[str, float]:
    """Return the median seconds of each action; each round times each action once, warmed up, in random order."""
    threads, order = torch.get_num_threads(), random.Random(0)
    timers = {name: Timer("action()", globals={"action": run}, num_threads=threads) for name, run in actions.items()}
    measured: dict[str, list[Measurement]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name in order.sample(list(actions), len(actions)):
            measured[name].append(timers[name].timeit(1))
    return {name: Measurement.merge(found)[0].median for name, found in measured.items()}


def photograph(width: int, height: int) -> NDArray[np.uint8]:
    """Return a photograph of this size, enlarged from scikit-image's; uint8 ``(height, width, 3)`` RGB."""
    return np.asarray(cv2.resize(astronaut(), (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def rounded(row: Mapping[str, float]) -> dict[str, float]:
    """Round figures to four digits."""
    return {name: float(f"{value:.4g}") for name, value in row.items()}


def machine() -> dict[str, object]:
    """Describe the machine and the versions."""
    found: dict[str, object] = {
        "cpu": device_name("cpu"),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    return found | ({"cuda": device_name("cuda")} if torch.cuda.is_available() else {})


def main(description: str | None, run: Callable[..., Report], quick: Mapping[str, Any], **extra: Any) -> None:
    """Run a benchmark from the command line, print and write its report.

    Args:
        description: Help text.
        run: Returns the report; takes ``runs`` and the extra arguments.
        quick: Arguments of ``run`` for ``--quick``, which tries the script out and writes nothing by default.
        extra: Further options, as ``add_argument`` takes them.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="repetitions of the comparison (default: 3)")
    parser.add_argument("--json", type=Path, help="where to write the result (default: results/speed/)")
    parser.add_argument("--quick", action="store_true", help="try the script out on small inputs")
    for name, settings in extra.items():
        parser.add_argument(f"--{name}", **settings)
    chosen = vars(parser.parse_args())
    file, small = chosen.pop("json"), chosen.pop("quick")
    report = run(**{**chosen, **(quick if small else {})})
    report.show()
    if file or not small:
        print(f"written to {report.write(file)}")
