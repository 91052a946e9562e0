"""The loader's benchmark, on a few small images."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Load = Callable[[str], ModuleType]


def test_the_benchmark_checks_its_sides_and_writes_what_it_found(bench: Load, tmp_path: Path) -> None:
    loader = bench("loader")
    loader.DIV2K_IMAGE = (600, 800)
    report = loader.run(2, images=3, counts=(20, 40), work=1)
    found = json.loads(report.write(tmp_path / "loader.json").read_text())
    assert found["checks"]["64x64 pairs equal on all sides (PNG, h5py, h5py kept open)"] == 128
    assert [row["target"] for row in found["comparisons"]] == [50, 3, 3]
    assert all(len(row["ours"]) == 2 and min(row["ours"] + row["theirs"]) > 0 for row in found["comparisons"])
    lines = {name: line for curve in found["curves"].values() for name, line in curve["lines"].items()}
    assert [x for x, _ in lines["ours"]] == [20, 40]
    assert [x for x, _ in lines["processes"]] == [1, 2, 4]


def test_a_side_that_delivers_other_pixels_ends_the_benchmark(bench: Load, tmp_path: Path) -> None:
    loader = bench("loader")
    cache = loader.make_cache(tmp_path, 2, (480, 480))
    sampler = loader.PatchSampler([cache], patch=16, batch=4)
    shifted = loader.PatchSampler([cache], patch=16, batch=4, seed=1)
    with pytest.raises(SystemExit, match=re.escape("the shifted side delivers other pixels at step 0")):
        loader.check(loader.Report("loader"), sampler, {"shifted": shifted.batch})


def test_a_synthetic_cache_opens_like_any_other(bench: Load, tmp_path: Path) -> None:
    loader = bench("loader")
    cache = loader.PatchCache(loader.synthetic_cache(tmp_path / "c.h5", 30, 16))
    assert len(cache) == 30 and cache.scale == 4
    for lr, hr in zip(cache.lr, cache.hr, strict=True):
        assert hr.shape[0] == 4 * lr.shape[0] and hr.shape[1] == 4 * lr.shape[1]
