"""The benchmark of PSNR and SSIM, on a small pair."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Load = Callable[[str], ModuleType]


def test_the_benchmark_checks_its_sides_and_writes_what_it_found(bench: Load, tmp_path: Path) -> None:
    report = bench("metrics").run(2, size=(120, 88), rounds=1)
    found = json.loads(report.write(tmp_path / "metrics.json").read_text())
    assert found["checks"]["PSNR differs from KAIR's by"] <= 1e-9
    assert found["checks"]["SSIM differs from KAIR's by"] <= 1e-9
    (row,) = found["comparisons"]
    assert row["target"] == 4 and len(row["ours"]) == len(row["theirs"]) == 2


def test_a_metric_that_differs_ends_the_benchmark(bench: Load) -> None:
    metrics = bench("metrics")
    metrics.kair_ssim = lambda sr, hr: 0.5
    with pytest.raises(SystemExit, match="SSIM differs"):
        metrics.run(1, size=(120, 88), rounds=1)
