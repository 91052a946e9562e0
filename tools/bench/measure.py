"""What the benchmarks of this folder share: taking turns, and writing down what came out.

A figure is always a ratio of two sides that were run in turns in one process, so that a machine that slows down
meanwhile slows both. It is taken in several runs; the median run is the result, the others show the spread.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from fmen_eval.runtime import device_name

RESULTS = Path(__file__).resolve().parents[2] / "results" / "speed"


@dataclass(frozen=True)
class Comparison:
    """One row of the table: what we need, and what the other side needs, in every run.

    Attributes:
        what: What is measured.
        against: The other side.
        unit: Of ``ours`` and ``theirs``: ``"s"``, ``"ms"``, ``"bytes"``, or a rate such as ``"pairs/s"``.
        ours: One figure per run.
        theirs: One figure per run, taken in turns with ours.
        target: The ratio that is aimed at.
        goal: ``"at least"`` or ``"at most"``: which side of the target is good.
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
        """How many times better than theirs ours is, per run; for ``"at most"``, ours as a share of theirs."""
        larger_is_better = self.unit.endswith("/s")
        pairs = list(zip(self.ours, self.theirs, strict=True))
        if self.goal == "at most" or larger_is_better:
            return [ours / theirs for ours, theirs in pairs]
        return [theirs / ours for ours, theirs in pairs]

    @property
    def met(self) -> bool:
        """Whether the median run reaches the target."""
        ratio = median(self.ratios)
        return ratio <= self.target if self.goal == "at most" else ratio >= self.target

    def to_json(self) -> dict[str, Any]:
        """The row with its ratio: median, lowest and highest run."""
        ratios = self.ratios
        spread = {"ratio": median(ratios), "lowest": min(ratios), "highest": max(ratios), "met": self.met}
        return {**asdict(self), **spread}


@dataclass
class Report:
    """Everything a benchmark found.

    Attributes:
        name: The JSON file's name.
        comparisons: The rows of its table.
        checks: What was made sure of before anything was timed: a sentence and the figure that shows it.
        curves: What is plotted: a title, and per line its points ``[x, y]``.
        facts: Other figures that the page quotes.
    """

    name: str
    comparisons: list[Comparison] = field(default_factory=list)
    checks: dict[str, float | int | str] = field(default_factory=dict)
    curves: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def curve(self, title: str, x: str, y: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> None:
        """Keep a plot: its title, the names of its axes, and the points of its lines."""
        self.curves[title] = {"x": x, "y": y, "lines": {name: [list(p) for p in line] for name, line in lines.items()}}

    def show(self) -> None:
        """Print the table."""
        for sentence, figure in self.checks.items():
            print(f"{sentence}: {figure}")
        for row in self.comparisons:
            ratios, verdict = row.ratios, "met" if row.met else "missed"
            sides = f"{median(row.ours):.4g} against {median(row.theirs):.4g} {row.unit}"
            spread = f"{median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"{row.what}, against {row.against}: {sides}, {spread}; {row.goal} {row.target:g}: {verdict}")
        for title, curve in self.curves.items():
            print(f"{title}: {curve['y']} by {curve['x']}")
            for line, points in curve["lines"].items():
                print(f"  {line}: " + ", ".join(f"{x:g}: {y:.4g}" for x, y in points))
        for fact, value in self.facts.items():
            print(f"{fact}: {value}")

    def write(self, path: Path | None = None) -> Path:
        """Write the JSON, with the machine's description, to ``path`` or under ``results/speed/``."""
        path = path or RESULTS / f"{self.name}.json"
        found = {
            "name": self.name,
            "command": " ".join(["python", f"tools/bench/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
            "machine": machine(),
            "checks": self.checks,
            "comparisons": [row.to_json() for row in self.comparisons],
            "curves": self.curves,
            "facts": self.facts,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(found, indent=1) + "\n")
        part.replace(path)
        return path


def in_turns(actions: Mapping[str, Callable[[], object]], *, rounds: int = 7, warmup: int = 2) -> dict[str, float]:
    """Median seconds of each action; every round runs each once, in an order drawn afresh."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    order = list(actions)
    shuffle = random.Random(0).shuffle
    for turn in range(-warmup, rounds):
        shuffle(order)
        for name in order:
            begun = time.perf_counter()
            actions[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= 0:
                times[name].append(time.perf_counter() - begun)
    return {name: median(values) for name, values in times.items()}


def rounded(row: Mapping[str, float]) -> dict[str, float]:
    """Figures to four digits, for a fact."""
    return {name: float(f"{value:.4g}") for name, value in row.items()}


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    found: dict[str, object] = {
        "cpu": device_name("cpu"),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": ".".join(map(str, sys.version_info[:3])),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    if torch.cuda.is_available():
        found["cuda"] = device_name("cuda")
    return found


def options(description: str | None, **extra: dict[str, Any]) -> argparse.Namespace:
    """The command line of a benchmark: ``--runs``, ``--json``, and what it needs beside them."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="how often the whole comparison is repeated (default: 3)")
    parser.add_argument("--json", type=Path, help="where to write the result (default: results/speed/)")
    for name, settings in extra.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **settings)
    return parser.parse_args()
