"""The benchmark of the command's start, against something lighter than torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Load = Callable[[str], ModuleType]


def test_the_benchmark_checks_the_help_and_writes_what_it_found(bench: Load, tmp_path: Path) -> None:
    report = bench("startup").run(1, rounds=1, against="import json")
    found = json.loads(report.write(tmp_path / "startup.json").read_text())
    assert found["checks"]["characters of help that it prints"] > 100
    (row,) = found["comparisons"]
    assert (row["target"], row["goal"]) == (0.25, "at most") and row["ours"][0] > 0


def test_a_command_that_fails_ends_the_benchmark(bench: Load) -> None:
    with pytest.raises(SystemExit, match="ended with status 3"):
        bench("startup").start([sys.executable, "-c", "raise SystemExit(3)"])
