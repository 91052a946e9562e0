"""The benchmark of a training step, on small batches."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

Load = Callable[[str], ModuleType]


def test_the_benchmark_checks_its_sides_and_writes_what_it_found(
    bench: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = bench("training")
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)  # takes a minute
    report = script.run(1, batch=2, patch=8, rounds=1, batches=(1, 2), patches=(8,), paper=(2, 8))
    found = json.loads(report.write(tmp_path / "training.json").read_text())
    checks = found["checks"]
    assert checks["relative difference of a parameter's gradient, in float64"] < 1e-9
    assert [row["target"] for row in found["comparisons"]] == pytest.approx([2.8, 4, 2.8, 4] + 4 * [1 / 3])
    assert set(found["facts"]["compiling"]) == {"fp32, compiled", "bf16, compiled"}
    assert found["facts"]["paper_steps_per_second"] > 0
    assert all(
        "3,000,000 x" in entry["sentence"] for entry in found["facts"]["whole runs"] if entry["recipe"] == "paper"
    )
    assert len(found["curves"]) == 4


def test_another_gradient_ends_the_benchmark(bench: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    script = bench("ways")
    spoilt = script.randomised()
    with torch.no_grad():
        spoilt.head.weight[0, 0, 0, 0] += 1e-3
    models = iter([spoilt, script.randomised()])
    monkeypatch.setattr(script, "randomised", lambda *_: next(models))
    with pytest.raises(SystemExit, match="the two ways differ"):
        script.check(script.Report("training"), patch=6)


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
