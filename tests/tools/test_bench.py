"""The benchmarks, on small inputs: every check, row and plot is there, and a wrong result ends the benchmark."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fmen_core import FMEN, Upscaler

Load = Callable[[str], ModuleType]


def written(report: Any, folder: Path) -> dict[str, Any]:
    report.show()
    found: dict[str, Any] = json.loads(report.write(folder / "found.json").read_text())
    return found


def test_forward_compares_with_the_published_code(bench: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = bench("forward")
    monkeypatch.setattr(script.importlib.util, "find_spec", lambda name: None)  # exporting to ONNX takes seconds
    found = written(script.run(1, side=64, rounds=1), tmp_path)
    assert found["checks"]["ours, fp32: largest difference from the published code, of 255"] < 1e-2
    assert (
        0
        < found["checks"]["ours, bf16: largest difference from the published code, of 255"]
        <= script.TOLERANCE["bf16"]
    )
    assert [row["target"] for row in found["comparisons"]] == [1.8, 3.2, 1, 1]
    assert [row["met"] for row in found["comparisons"][2:]] == [True, True]
    assert found["facts"]["feature maps of the published code above input and output"] > 3


def test_forward_ends_at_another_result(bench: Load) -> None:
    script = bench("forward")
    expected = torch.zeros(1, 3, 8, 8)
    runs = {"published": lambda: expected, "ours, fp32": lambda: expected + 0.02}
    with pytest.raises(SystemExit, match=r"ours, fp32 is 0\.02 of 255 from the published code; at most 0\.01"):
        script.check(script.Report("forward"), runs)


def test_width_compares_48_channels_with_50(bench: Load, tmp_path: Path) -> None:
    found = written(bench("width").run(1, side=16, rounds=1), tmp_path)
    assert [row["against"] for row in found["comparisons"]] == 2 * ["50 channels"]
    table = found["facts"]["FMEN-S x4 with"]
    assert table["50 channels"]["parameters"] == 341_066
    assert table["48 channels"]["parameters"] < 341_066 < table["64 channels"]["parameters"]
    assert all(row["ms, fp32"] > 0 and row["ms, bf16"] > 0 for row in table.values())


def test_backends_are_compared_with_pytorch_and_ends_at_another_result(
    bench: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, network = bench("backends"), FMEN(n_feats=8, mid_feats=6, down_blocks=1, up_blocks=(1, 1))
    torch_ones = {each: Upscaler(network, device="cpu", precision=each) for each in ("fp32", "bf16")}
    sides = {each: {"torch": run, "openvino": run} for each, run in torch_ones.items()}
    monkeypatch.setattr(script, "upscalers", lambda weights: sides)
    found = written(script.run(1, sides={8: 1, 12: 1}), tmp_path)
    assert [row["what"] for row in found["comparisons"]] == [
        f"upscaling {side}x{side} by 4 with openvino, {each}" for each in sides for side in (8, 12)
    ]
    assert found["checks"]["openvino, fp32, 8x8: mean squared difference from PyTorch in fp32"] == 0
    assert set(found["facts"]["image"]) == {"8x8", "12x12"}
    sides["fp32"]["openvino"] = lambda image: 255 - torch_ones["fp32"](image)
    with pytest.raises(SystemExit, match=r"openvino, fp32, 8x8: \d+ of 255 from PyTorch in fp32"):
        script.run(1, sides={8: 1})


def test_training_compares_time_and_memory(bench: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = bench("training")
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)  # takes a minute
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    report = script.run(1, batch=1, patch=8, rounds=1, paper=(1, 8))
    found = written(report, tmp_path)
    assert found["checks"]["relative difference of a parameter's gradient, in float64"] < 1e-9
    assert [row["target"] for row in found["comparisons"]] == pytest.approx([2.8, 4, 2.8, 4] + 4 * [1 / 3])
    assert set(found["facts"]["compiling"]) == {"fp32, compiled", "bf16, compiled"}
    row = found["facts"]["days of a whole run, 1 patches of 8x8"]["3,000,000 steps of paper, published"]
    assert row["days"] == pytest.approx(3_000_000 * row["s per step"] / 86400)


def test_training_ends_at_another_gradient(bench: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    script = bench("ways")
    changed = script.randomised()
    with torch.no_grad():
        changed.head.weight[0, 0, 0, 0] += 1e-3
    models = iter([changed, script.randomised()])
    monkeypatch.setattr(script, "randomised", lambda *_: next(models))
    with pytest.raises(SystemExit, match="the two ways differ"):
        script.check(script.Report("training"), patch=6)


def test_loader_compares_equal_batches(bench: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = bench("loader")
    monkeypatch.setattr(loader.os, "sync", lambda: None)
    monkeypatch.setattr(loader, "ROUNDS", 1)
    found = written(loader.run(1, images=2, size=(300, 400), many=20, work=1), tmp_path)
    assert found["checks"]["64x64 pairs equal on all sides (h5py, PNG)"] == 64
    assert [row["target"] for row in found["comparisons"]] == [50, 3, 3, 3]


def test_loader_ends_at_other_pixels(bench: Load, tmp_path: Path) -> None:
    loader = bench("loader")
    cache = loader.make_cache(tmp_path, 2, (120, 120))
    sampler = loader.PatchSampler([cache], patch=16, batch=4)
    shifted = loader.PatchSampler([cache], patch=16, batch=4, seed=1)
    with pytest.raises(SystemExit, match="the shifted side delivers other pixels at step 0"):
        loader.check(loader.Report("loader"), sampler, {"shifted": shifted.batch})


def test_tiling_compares_with_the_whole_image(bench: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = bench("tiling")
    monkeypatch.setattr(script, "upscale", script.one_pass)  # a new process imports PyTorch for two seconds
    monkeypatch.setattr(script, "PRECISIONS", ("fp32",))
    monkeypatch.setattr(script, "REPEATS", 1)
    found = written(script.run(1, size=(40, 36), side=16, sides=((16, 20, 24), (32,))), tmp_path)
    assert list(found["checks"].values()) == [0]
    assert [row["target"] for row in found["comparisons"]] == [1, 1.08]
    assert set(found["facts"]["passes"]["fp32"]) >= {"us strips", "us tiles", "MiB strips"}
    times, memory = (curve["lines"] for curve in found["curves"].values())
    assert [[x for x, _ in times[way]] for way in ("strips", "tiles", "whole")] == [[16, 20, 24, 32]] * 3
    assert [x for x, _ in memory["strips"]] == [24, 32]


def test_tiling_counts_differing_values(bench: Load, tmp_path: Path) -> None:
    one = np.zeros((1200, 10, 3), np.uint8)
    other = one.copy()
    other[[3, 700, 1199], 5, 1] = 1
    for name, values in (("one", one), ("other", other)):
        np.save(tmp_path / f"{name}.npy", values)
    assert bench("tiling").differing(tmp_path / "one.npy", tmp_path / "other.npy") == 3


def test_operations_add_up_to_the_known_complexity(bench: Load, tmp_path: Path) -> None:
    report = bench("operations").run(1, size=64, side=32, batch=1, patch=8)
    found = written(report, tmp_path)
    assert found["checks"]["multiply-accumulates of a forward pass, counted and known, in G"] == 0.3481
    for what in ("a training step", "a forward pass"):
        for precision in ("fp32", "bf16"):
            assert len(found["facts"][f"most expensive operators of {what}, {precision}"]) == 5


def test_an_account_has_the_calls_and_the_arithmetic_of_a_convolution(bench: Load) -> None:
    script = bench("roofs")
    x, weight = torch.rand(2, 4, 8, 8), torch.rand(6, 4, 3, 3)
    entries = script.account(lambda: F.conv2d(x, weight, padding=1).relu_(), repeats=1)
    conv, relu = entries["4 -> 6 3x3 convolution"], entries["relu_, 6 channels"]
    assert (conv.calls, conv.flops, relu.flops) == (1, 2 * 2 * 6 * 4 * 9 * 64, 0)
    assert conv.seconds > 0


def test_metrics_are_compared_when_they_agree(bench: Load, tmp_path: Path) -> None:
    metrics = bench("metrics")
    found = written(metrics.run(2, size=(120, 88), rounds=1), tmp_path)
    assert max(found["checks"].values()) <= 1e-9
    (row,) = found["comparisons"]
    assert row["target"] == 4 and len(row["ours"]) == len(row["theirs"]) == 2
    metrics.kair_ssim = lambda sr, hr: 0.5
    with pytest.raises(SystemExit, match="SSIM differs"):
        metrics.run(1, size=(120, 88), rounds=1)


def test_imresize_is_compared_when_it_agrees(bench: Load, tmp_path: Path) -> None:
    script = bench("imresize")
    found = written(script.run(1, size=(120, 88), rounds=1), tmp_path)
    assert 0 < found["checks"]["share of values in which KAIR's port differs from ours"] < 0.2
    assert [row["target"] for row in found["comparisons"]] == [2]
    script.imresize = lambda image, scale: 255 - image[::4, ::4]
    with pytest.raises(SystemExit, match="not the same computation"):
        script.run(1, size=(120, 88), rounds=1)


def test_startup_compares_the_help(bench: Load, tmp_path: Path) -> None:
    script = bench("startup")
    found = written(script.run(1, rounds=1, against="import json"), tmp_path)
    assert found["checks"]["characters of help that fmen --help prints"] > 100
    assert found["comparisons"][0]["goal"] == "at most"
    with pytest.raises(SystemExit, match="ended with status 3"):
        script.start("-c", "raise SystemExit(3)")


def test_engines_are_compared_with_the_sum_of_their_parts(
    bench: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = bench("engines")
    monkeypatch.setattr(script.importlib.util, "find_spec", lambda name: None)  # Ray takes seconds to start
    monkeypatch.setattr(script, "SIDES", (12, 17))

    def memory(count: int) -> dict[int, int]:
        script.make_images(tmp_path, count, (12, 17))
        found: dict[int, int] = script.memory_of_a_run(str(tmp_path))
        return found

    monkeypatch.setattr(script, "measure_memory", memory)
    monkeypatch.setattr(script, "EARLY", 2)
    found = written(script.run(1, count=3, memory=3), tmp_path)
    speed, busy, resident = found["comparisons"]
    assert busy["unit"] == "cores" and busy["ours"][0] > 0
    assert speed["ours"][0] > 0 and speed["theirs"][0] > 0
    assert set(found["facts"]["seconds of each part, last run"]) == {"decode", "network", "encode"}
    assert resident["unit"] == "bytes" and resident["ours"][0] > 2**27
    assert len(list((tmp_path / "out").glob("0*.png"))) == 3


def test_quick_tries_a_script_out_and_writes_nothing(
    bench: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = bench("measure")

    def run(runs: int, size: int = 5) -> Any:
        report = measure.Report("absent")
        report.compare(f"size {size}", "theirs", "s", [{"a": 1.0, "b": 3.0}] * runs, ("a", "b"), target=2)
        return report

    monkeypatch.setattr(sys, "argv", ["script.py", "--quick", "--runs", "2"])
    measure.main("", run, {"size": 1})
    assert "size 1  theirs   1 s   3 s     3.00x  3.00–3.00       ≥ 2x    met" in capsys.readouterr().out
    assert not (measure.RESULTS / "absent.json").exists()
