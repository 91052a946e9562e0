"""The line that says how the rows of a benchmark were measured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fmen.benchmark.run import describe_conditions


def test_the_conditions_name_the_largest_spread_in_percent() -> None:
    rows: Any = [SimpleNamespace(runtime=SimpleNamespace(spread=spread)) for spread in (0.05, 0.5, 0.1)]
    line = describe_conditions(rows, "cpu", (36, 64), 7)
    assert "LR image 64x36; median of 7 interleaved runs, quartiles at most 50.0 % apart; " in line
