"""The benchmark of ``imresize``, on a small image."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

Load = Callable[[str], ModuleType]


def test_the_benchmark_checks_its_sides_and_writes_what_it_found(bench: Load, tmp_path: Path) -> None:
    report = bench("imresize").run(2, size=(120, 88), rounds=1)
    found = json.loads(report.write(tmp_path / "imresize.json").read_text())
    assert found["checks"]["values in which ours differs from MATLAB's rule"] == 0
    assert 0 < found["checks"]["share of values in which KAIR's way differs from it"] < 0.2
    assert {row["target"] for row in found["comparisons"]} == {2}


def test_a_single_other_pixel_ends_the_benchmark(bench: Load) -> None:
    script = bench("imresize")
    exact = script.imresize

    def spoilt(image: np.ndarray, scale: float) -> np.ndarray:
        out = exact(image, scale)
        out[3, 4, 1] ^= 1
        return out

    script.imresize = spoilt
    with pytest.raises(SystemExit, match="differs from MATLAB's rule in 1 of 1980 values"):
        script.run(1, size=(120, 88), rounds=1)
