"""Timing and reporting that the benchmarks share: sides in turns, a table of ratios, a JSON record.

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

import numpy as np
import torch
from torch.utils.benchmark import Measurement, Timer

from fmen_data.atomic import atomic_write_bytes
from fmen_eval.runtime import device_name

RESULTS = Path(__file__).resolve().parents[2] / "results" / "speed"

Action = Callable[[], object]


@dataclass(frozen=True)
class Comparison:
    """One row of the table: figures of two sides, one per run.

    Attributes:
        what: What is measured.
        against: The other side.
        unit: ``"s"``, ``"ms"``, ``"bytes"``, or a rate such as ``"pairs/s"``.
        ours, theirs: One figure per run, taken in turns.
        target: Target of the ratio.
        goal: ``"at least"`` or ``"at most"``.
    """

    what: str
    against: str
    unit: str
    ours: Sequence[float]
    theirs: Sequence[float]
    target: float
    goal: str = "at least"

    @property
    def ratios(self) -> list[float]:
        """Factor by which ours is better, per run; for ``"at most"``, ours as a share of theirs."""
        direct = self.goal == "at most" or self.unit.endswith("/s")
        return [a / b if direct else b / a for a, b in zip(self.ours, self.theirs, strict=True)]

    @property
    def met(self) -> bool:
        """Whether the median run reaches the target."""
        ratio = median(self.ratios)
        return ratio <= self.target if self.goal == "at most" else ratio >= self.target

    def to_dict(self) -> dict[str, Any]:
        """Return the row with the median, lowest and highest ratio."""
        ratios = self.ratios
        spread = {"ratio": median(ratios), "lowest": min(ratios), "highest": max(ratios), "met": self.met}
        return {**asdict(self), **spread}


@dataclass
class Report:
    """The result of a benchmark.

    Attributes:
        name: Name of the JSON file.
        comparisons: Rows of the table.
        checks: What was verified before timing, and the figure that shows it.
        curves: Plots: by title, the names of the axes and the points ``[x, y]`` of each line.
        facts: Other figures of the page.
    """

    name: str
    comparisons: list[Comparison] = field(default_factory=list)
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
        """Add a row from the figures that each run found, by side."""
        ours, theirs = ([run[side] for run in runs] for side in sides)
        self.comparisons.append(Comparison(what, against, unit, ours, theirs, target, goal))

    def curve(self, title: str, x: str, y: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> None:
        """Add a plot."""
        self.curves[title] = {"x": x, "y": y, "lines": {name: [list(p) for p in line] for name, line in lines.items()}}

    def show(self) -> None:
        """Print the table, the curves and the facts."""
        for row in self.comparisons:
            ratios, verdict = row.ratios, "met" if row.met else "missed"
            sides = f"{median(row.ours):.4g} against {median(row.theirs):.4g} {row.unit}"
            spread = f"{median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"{row.what}, against {row.against}: {sides}, {spread}; {row.goal} {row.target:g}: {verdict}")
        for title, curve in self.curves.items():
            for line, points in curve["lines"].items():
                print(f"{title}, {line} [{curve['y']}]: " + ", ".join(f"{x:g}: {y:.4g}" for x, y in points))
        for name, value in {**self.checks, **self.facts}.items():
            print(f"{name}: {value}")

    def write(self, path: Path | None = None) -> Path:
        """Write the JSON record, with the machine and the command, to ``path`` or under ``results/speed/``."""
        path = path or RESULTS / f"{self.name}.json"
        record = {
            "name": self.name,
            "command": " ".join(["python", f"tools/bench/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
            "machine": machine(),
            "checks": self.checks,
            "comparisons": [row.to_dict() for row in self.comparisons],
            "curves": self.curves,
            "facts": self.facts,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(path, (json.dumps(record, indent=1) + "\n").encode())
        return path


def in_turns(actions: Mapping[str, Action], *, rounds: int = 5) -> dict[str, float]:
    """Return the median seconds of each action; each round times each action once, warmed up, in random order."""
    threads = torch.get_num_threads()
    timers = {
        name: Timer("action()", globals={"action": action}, num_threads=threads) for name, action in actions.items()
    }
    measured: dict[str, list[Measurement]] = {name: [] for name in actions}
    order = list(actions)
    shuffle = random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            measured[name].append(timers[name].timeit(1))
    return {name: Measurement.merge(found)[0].median for name, found in measured.items()}


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


def main(
    description: str | None, run: Callable[..., Report], quick: Mapping[str, Any], **extra: dict[str, Any]
) -> None:
    """Run a benchmark from the command line, print and write its report.

    Args:
        description: Help text.
        run: Returns the report; takes ``runs`` and the extra arguments.
        quick: Settings of ``run`` for ``--quick``, which tries the script out and writes nothing by default.
        extra: Further arguments, as ``add_argument`` takes them.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="repetitions of the comparison (default: 3)")
    parser.add_argument("--json", type=Path, help="where to write the result (default: results/speed/)")
    parser.add_argument("--quick", action="store_true", help="try the script out on small inputs")
    for name, settings in extra.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **settings)
    chosen = vars(parser.parse_args())
    file, small = chosen.pop("json"), chosen.pop("quick")
    report = run(**chosen, **(quick if small else {}))
    report.show()
    if file or not small:
        print(f"written to {report.write(file)}")
