"""The benchmarks for a GPU, on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

Load = Callable[[str], ModuleType]


def test_the_section_for_a_gpu_runs_on_a_cpu(bench: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = bench("training_gpu")
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    report = script.run(1, device="cpu", batch=3, patch=8, steps=1, rounds=1, images=(2, 64))
    found = json.loads(report.write(tmp_path / "training.json").read_text())
    assert found["checks"]["batches cut on the device and by the loader, that differ"] == 0
    assert {"published", "fp32", "bf16"} <= set(found["facts"]["ways"])
    assert [row["what"].split("fed from ")[1] for row in found["comparisons"][-3:]] == [
        "images on the device",
        "the loader",
        "the loader with 4 threads",
    ]


def test_patches_cut_on_the_device_are_the_loaders_in_every_orientation(bench: Load) -> None:
    script = bench("training_gpu")
    with script.synthetic_cache(3, 96) as cache:
        sampler = script.PatchSampler([cache], patch=5, batch=64, seed=1)
        resident = script.ResidentPatches(sampler, torch.device("cpu"))
        assert set(sampler.draw(0)[:, 3]) == set(range(8))
        script.check_resident(script.Report("training"), sampler, resident)
        resident.hr.flat ^= 1
        with pytest.raises(SystemExit, match="batch 0, cut on the device, is not the loader's"):
            script.check_resident(script.Report("training"), sampler, resident)


def test_the_benchmark_of_the_gpu_measures_networks_in_every_precision(bench: Load, tmp_path: Path) -> None:
    report = bench("forward_gpu").run(1, device="cpu", names=["fmen-s", "span"], size=(12, 16))
    found = json.loads(report.write(tmp_path / "forward_gpu.json").read_text())["facts"]["networks"]
    assert set(found) == {
        f"{name}, {precision}" for name in ("fmen-s", "span") for precision in ("fp32", "fp16", "bf16")
    }
    keys = {"peak MiB", "ms", "share of matrix products", "share of bandwidth"}
    assert all(set(row) == keys and min(row.values()) > 0 for row in found.values())
