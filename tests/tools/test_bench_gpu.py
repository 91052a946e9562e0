"""The benchmark for a GPU, on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

Load = Callable[[str], ModuleType]


def test_ways_feeds_and_networks_are_measured(bench: Load, tmp_path: Path) -> None:
    quick = {"batch": 3, "patch": 8, "steps": 1, "images": (2, 64), "sizes": ((12, 16),), "names": ("fmen-s",)}
    quick["large_size"] = (20, 12)
    report = bench("gpu").run(1, device="cpu", **quick)
    found = json.loads(report.write(tmp_path / "gpu.json").read_text())
    assert found["checks"]["batches cut on the device and by the loader, that differ"] == 0
    assert set(found["facts"]["ways"]) == {"published", "fp32", "bf16"}
    fed = [row["what"].split("fed from ")[1] for row in found["comparisons"][-2:]]
    assert fed == ["patches cut on the device", "the loader"]
    shares = found["facts"]["share of the time of a step that the feed takes, " + quickest_of(found)]
    assert set(shares) == set(fed) and all(share < 1 for share in shares.values())
    assert all(row["share of a matrix product"] > 0 for row in found["facts"]["ways"].values())
    networks = found["facts"]["networks"]
    assert set(networks) == {"fmen-s, fp32", "fmen-s, bf16", "fmen-s, fp16"}
    assert all(min(row.values()) > 0 for row in networks.values())


def quickest_of(found: dict[str, Any]) -> str:
    """The name of the way that was fed."""
    return str(found["comparisons"][-1]["what"].split(", ")[1])


def test_networks_are_left_out_after_the_deadline(bench: Load, capsys: pytest.CaptureFixture[str]) -> None:
    script = bench("gpu")
    report = script.Report("gpu")
    script.networks(report, ("fmen-s",), "cpu", ((12, 16),), 1, 0.0)
    assert report.facts["networks"] == {} and capsys.readouterr().out == "fmen-s: left out: no time is left\n"


def test_other_patches_than_the_loaders_stop_the_benchmark(bench: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    script = bench("gpu")
    batch = script.ResidentPatches.batch
    monkeypatch.setattr(script.ResidentPatches, "batch", lambda self, step: [x ^ 1 for x in batch(self, step)])
    way = script.ours("fp32")
    with (
        script.noise_cache(2, 48) as cache,
        pytest.raises(SystemExit, match="a batch that was cut on the device is not the loader's"),
    ):
        script.feeds(script.Report("gpu"), "fp32", way, cache, "cpu", 2, 8, steps=1, rounds=1)
