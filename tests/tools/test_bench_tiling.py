"""The benchmark of tiles, on a small image."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

Load = Callable[[str], ModuleType]


def test_the_benchmark_compares_tiles_and_writes_what_it_found(
    bench: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    script = bench("tiling")
    monkeypatch.setattr(script, "PRECISIONS", ("fp32",))
    report = script.run(1, size=(160, 144), tile=24, small_side=32, repeats=1)
    report.show()
    found = json.loads(report.write(tmp_path / "tiling.json").read_text())
    tiled, auto = found["checks"]
    assert re.match(r"fp32, 80x72, tile=24 \((\d\d|[2-9]) tiles\): values that differ from the whole image, of", tiled)
    assert auto.startswith("fp32, 160x144, tile=auto (1 tiles): values that differ from the whole image, of")
    assert set(found["checks"].values()) == {0}
    assert [row["target"] for row in found["comparisons"]] == [1, 1.15]
    assert found["comparisons"][0]["met"]
    assert found["facts"]["passes"]["fp32"]["margin in pixels"] == 34


def test_the_large_picture_has_the_content_of_photographs(bench: Load) -> None:
    image = bench("tiling").landscape(600, 500)
    assert image.shape == (500, 600, 3) and image.dtype == np.uint8
    assert all(block.std() > 10 for block in np.array_split(image, 4))


def test_differing_values_are_counted(bench: Load, tmp_path: Path) -> None:
    one = np.zeros((1200, 10, 3), np.uint8)
    other = one.copy()
    other[[3, 700, 1199], 5, 1] = 1
    for name, values in (("one", one), ("other", other)):
        np.save(tmp_path / f"{name}.npy", values)
    assert bench("tiling").differing(tmp_path / "one.npy", tmp_path / "other.npy") == 3


def test_a_failed_pass_ends_the_benchmark_with_its_reason(bench: Load, tmp_path: Path) -> None:
    script = bench("tiling")
    with pytest.raises(SystemExit, match=r"a pass in fp32, tile='auto', failed: .*absent\.png"):
        script.Case(tmp_path / "absent.png", "fp32").run("auto")
