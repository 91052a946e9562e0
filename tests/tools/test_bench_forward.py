"""The benchmark of the forward pass, on small images; that of the GPU, on the processor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from skimage.data import astronaut

Load = Callable[[str], ModuleType]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A folder with one HR image."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    cv2.imwrite(str(folder / "astronaut.png"), np.ascontiguousarray(astronaut()[:96, 200:320, ::-1]))
    return folder


def test_the_benchmark_checks_its_sides_and_writes_what_it_found(bench: Load, dataset: Path, tmp_path: Path) -> None:
    script = bench("forward")
    report = script.run(1, data=[str(dataset)], side=24, sides=(16, 24), rounds=1)
    report.show()
    found = json.loads(report.write(tmp_path / "forward.json").read_text())
    assert found["checks"]["ours, fp32: largest difference from the published way, of 255"] < 1e-2
    assert 0 < found["checks"]["ours, bf16: largest difference from the published way, of 255"] < 8
    assert any("mean PSNR (ntire) moves in bf16" in sentence for sentence in found["checks"])
    rows = {(row["what"], row["against"]): row for row in found["comparisons"]}
    assert {row["target"] for (what, _), row in rows.items() if what == "forward, 24x24, fp32"} >= {1.8}
    assert rows["forward, 24x24, bf16", "the published way, fp32"]["target"] == 3.2
    for title in ("Forward pass", "Forward pass per LR pixel", "Peak memory of the forward pass"):
        assert set(found["curves"][title]["lines"]) == {"published", "ours, fp32", "ours, bf16"}


def test_a_pass_takes_three_feature_maps_above_input_and_output(bench: Load) -> None:
    script = bench("forward")
    report = script.Report("forward")
    with torch.inference_mode():
        sides = script.Sides.of(script.fmen_s(scale=4, pretrained=True))
        script.memory(report, sides, script.tensor(script.photograph(96)), 50)
    assert [row.met for row in report.comparisons] == [True, True]
    maps = report.facts["memory in feature maps of C x H x W of the same precision"]
    assert maps["published, fp32"]["feature maps above input and output"] > 3


def test_another_result_ends_the_benchmark(bench: Load) -> None:
    script = bench("forward")
    expected = torch.zeros(1, 3, 8, 8)
    runs = {"published": lambda: expected, "ours, fp32": lambda: expected + 0.02}
    with pytest.raises(SystemExit, match=r"ours, fp32 is 0\.02 of 255 from the published way; at most 0\.01"):
        script.check(script.Report("forward"), runs)


def test_the_benchmark_does_without_other_software(
    bench: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = bench("forward")
    monkeypatch.setattr(script.importlib.util, "find_spec", lambda name: None)
    assert script.others(script.fmen_s(scale=4, pretrained=True), torch.zeros(1, 3, 8, 8)) == {}
    assert "no comparison with ONNX Runtime and OpenVINO" in capsys.readouterr().out


def test_the_benchmark_of_the_gpu_measures_networks_in_every_precision(bench: Load, tmp_path: Path) -> None:
    report = bench("forward_gpu").run(1, device="cpu", names=["fmen-s", "span"], size=(12, 16))
    found = json.loads(report.write(tmp_path / "forward_gpu.json").read_text())["facts"]["networks"]
    assert set(found) == {
        f"{name}, {precision}" for name in ("fmen-s", "span") for precision in ("fp32", "fp16", "bf16")
    }
    keys = {"peak MiB", "ms", "share of matrix products", "share of bandwidth"}
    assert all(set(row) == keys and min(row.values()) > 0 for row in found.values())
