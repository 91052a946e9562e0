"""Time and memory of a forward pass."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fmen_eval import EvaluationError, arithmetic, device_name, measure, measure_as_challenge, peak_memory
from fmen_eval.runtime import PeakMemory, Runtime

FEATURE = 8 * 64 * 64 * 4  # bytes of 8 channels of a 64x64 image in float32
IMAGE = 3 * 64 * 64 * 4


class Sleeper(nn.Module):
    """Sleeps for some seconds and writes its name into a list."""

    def __init__(self, seconds: float, calls: list[str], name: str) -> None:
        super().__init__()
        self.seconds, self.calls, self.name = seconds, calls, name

    def __deepcopy__(self, memo: object) -> Sleeper:
        return self

    def forward(self, image: Tensor) -> Tensor:
        self.calls.append(self.name)
        time.sleep(self.seconds)
        return image


class Doubling(nn.Module):
    """Allocates n buffers of 8 channels at once, then frees them."""

    def __init__(self, buffers: int) -> None:
        super().__init__()
        self.count = buffers
        self.weight = nn.Parameter(torch.ones(1000))

    def forward(self, image: Tensor) -> Tensor:
        held = [image.new_ones(1, 8, *image.shape[2:]) for _ in range(self.count)]
        return held[0]


def test_times_are_those_of_the_networks() -> None:
    calls: list[str] = []
    results = measure(
        {"slow": Sleeper(0.02, calls, "slow"), "fast": Sleeper(0.002, calls, "fast")},
        (8, 8),
        runs=5,
        warmup=1,
        progress=False,
    )
    assert list(results) == ["slow", "fast"]
    assert results["slow"].median_ms >= 20
    assert 2 <= results["fast"].median_ms < results["slow"].median_ms
    lower, upper = results["slow"].quartiles_ms
    assert len(results["slow"].times_ms) == 5
    assert lower <= results["slow"].median_ms <= upper
    assert results["slow"].spread == (upper - lower) / results["slow"].median_ms


def test_networks_take_turns_in_changing_order() -> None:
    calls: list[str] = []
    names = ["a", "b", "c"]
    measure({name: Sleeper(0, calls, name) for name in names}, (8, 8), runs=10, warmup=0, progress=False)
    rounds = [calls[start : start + 3] for start in range(0, 30, 3)]
    assert all(sorted(turn) == names for turn in rounds)
    assert len({tuple(turn) for turn in rounds}) > 2


@pytest.mark.parametrize("buffers", [1, 3])
def test_peak_on_the_cpu_is_weights_and_image_and_what_the_pass_allocates(buffers: int) -> None:
    peak = peak_memory(Doubling(buffers), torch.zeros(1, 3, 64, 64))
    assert peak.allocated_bytes == 4000 + IMAGE + buffers * FEATURE


def test_measuring_memory_leaves_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KINETO_LOG_LEVEL", raising=False)
    peak_memory(Doubling(1), torch.zeros(1, 3, 8, 8))
    assert "KINETO_LOG_LEVEL" not in os.environ
    monkeypatch.setenv("KINETO_LOG_LEVEL", "3")
    peak_memory(Doubling(1), torch.zeros(1, 3, 8, 8))
    assert os.environ["KINETO_LOG_LEVEL"] == "3"


def test_measuring_memory_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    peak_memory(Doubling(1), torch.zeros(1, 3, 64, 64))
    assert capfd.readouterr() == ("", "")


def test_the_challenges_way_is_one_pass_in_order() -> None:
    seen: list[tuple[int, ...]] = []

    class Recorder(Doubling):
        def forward(self, image: Tensor) -> Tensor:
            seen.append(tuple(image.shape[2:]))
            return super().forward(image)

    images = [torch.zeros(1, 3, *size) for size in ((64, 32), (64, 64), (16, 64))]
    result = measure_as_challenge(Recorder(2), images, progress=False)
    assert seen[:3] == [(64, 32), (64, 64), (16, 64)]
    assert result.images == 3
    assert result.mean_ms > 0
    assert result.peak_memory_bytes == 4000 + IMAGE + 2 * FEATURE


def test_networks_are_left_as_they_were() -> None:
    network = nn.BatchNorm2d(3).train()
    measure({"n": network}, (8, 8), runs=2, dtype=torch.float64, progress=False)
    assert network.training
    assert network.weight.dtype == torch.float32
    assert network.num_batches_tracked == 0


def test_the_device_is_named() -> None:
    assert f"{torch.get_num_threads()} thread" in device_name("cpu")


def test_the_name_of_a_cpu_is_that_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmen_eval.runtime.torch.get_num_threads", lambda: 1)
    assert device_name("cpu").endswith(", 1 thread")
    monkeypatch.setattr("fmen_eval.runtime.torch.get_num_threads", lambda: 3)
    assert device_name("cpu").endswith(", 3 threads")


@pytest.mark.parametrize(("flag", "words"), [("tf32", "float32 with TF32"), ("ieee", "float32 without TF32")])
def test_the_arithmetic_on_a_gpu_says_whether_float32_is_tf32(
    monkeypatch: pytest.MonkeyPatch, flag: str, words: str
) -> None:
    cudnn: Any = SimpleNamespace(conv=SimpleNamespace(fp32_precision=flag))
    monkeypatch.setattr(torch.backends, "cudnn", cudnn)
    assert arithmetic("cuda") == words
    monkeypatch.setattr(torch.backends, "cudnn", SimpleNamespace(allow_tf32=flag == "tf32"))  # before PyTorch 2.9
    assert arithmetic("cuda") == words
    assert arithmetic("cuda", torch.bfloat16) == "bfloat16"
    assert arithmetic("cpu") == "float32"


@pytest.mark.parametrize(("networks", "runs", "warmup"), [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_nothing_to_measure_is_refused(networks: int, runs: int, warmup: int) -> None:
    named = {str(index): nn.Identity() for index in range(networks)}
    with pytest.raises(EvaluationError, match="give at least one network and one run, and no negative number"):
        measure(named, (8, 8), runs=runs, warmup=warmup)


def test_no_images_are_refused() -> None:
    with pytest.raises(EvaluationError, match="no images"):
        measure_as_challenge(nn.Identity(), [], progress=False)


@pytest.mark.parametrize(
    ("times", "middle", "quartiles"),
    [((5.0,), 5.0, (5.0, 5.0)), ((9.0, 2.0, 1.0, 4.0, 3.0), 3.0, (2.0, 4.0)), ((7.0, 1.0), 4.0, (2.5, 5.5))],
)
def test_median_and_quartiles_are_those_of_the_runs(
    times: tuple[float, ...], middle: float, quartiles: tuple[float, float]
) -> None:
    result = Runtime(times, PeakMemory(0))
    assert result.median_ms == middle
    assert result.quartiles_ms == quartiles
    assert result.spread == (quartiles[1] - quartiles[0]) / middle


def test_the_type_of_weights_and_image_is_the_one_asked_for() -> None:
    class Recorder(nn.Conv2d):
        def __deepcopy__(self, memo: object) -> nn.Module:
            return self

        def forward(self, image: Tensor) -> Tensor:
            seen.append((image.dtype, self.weight.dtype, tuple(image.shape), self.training))
            return super().forward(image)

    seen: list[Any] = []
    measure({"n": Recorder(3, 3, 1)}, (6, 9), runs=1, warmup=0, dtype=torch.float64, progress=False)
    assert set(seen) == {(torch.float64, torch.float64, (1, 3, 6, 9), False)}


class Watcher(nn.Module):
    """Records its images."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[Tensor] = []

    def __deepcopy__(self, memo: object) -> Watcher:
        return self

    def forward(self, image: Tensor) -> Tensor:
        self.images.append(image)
        return image


def test_by_default_a_256x256_image_is_measured_20_times_after_3_passes() -> None:
    network = Watcher()
    assert len(measure({"n": network}, progress=False)["n"].times_ms) == 20
    assert len(network.images) == 3 + 20 + 1  # the last pass measures memory
    assert network.images[0].shape == (1, 3, 256, 256)


def test_the_image_is_that_of_seed_0() -> None:
    network = Watcher()
    measure({"n": network}, (4, 5), runs=1, progress=False)
    assert torch.equal(network.images[0], torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(0)))


def test_times_are_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100))
    monkeypatch.setattr("fmen_eval.runtime.time.perf_counter", lambda: next(now))
    assert measure({"n": nn.Identity()}, (8, 8), runs=2, warmup=0, progress=False)["n"].times_ms == (1000, 1000)


def test_among_images_of_equal_size_the_first_is_measured_for_memory() -> None:
    network = Watcher()
    images = [torch.zeros(1, 3, *size) for size in ((2, 2), (4, 8), (8, 4))]
    measure_as_challenge(network, images, progress=False)
    assert [tuple(image.shape[2:]) for image in network.images] == [(2, 2), (4, 8), (8, 4), (4, 8)]


def test_the_progress_bar_is_shown_by_default_and_leaves_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    for measured in (
        lambda: measure({"n": nn.Identity()}, (8, 8), runs=2),
        lambda: measure_as_challenge(nn.Identity(), [torch.zeros(1, 3, 8, 8)]),
    ):
        measured()
        shown = capsys.readouterr().err
        assert "runtime" in shown
        assert "\n" not in shown


def test_the_name_of_a_cpu_may_contain_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = tmp_path / "cpuinfo"
    listing.write_text("processor\t: 0\nmodel name\t: Fast CPU: 2 cores\nmodel name\t: Other CPU\n")
    monkeypatch.setattr("fmen_eval.runtime.Path", lambda _: listing)
    assert device_name("cpu").startswith("Fast CPU: 2 cores, ")


@pytest.mark.cuda
@pytest.mark.parametrize("buffers", [1, 3])
def test_peak_on_cuda_is_weights_and_image_and_what_the_pass_allocates(buffers: int) -> None:
    result = measure({"n": Doubling(buffers)}, (64, 64), device="cuda", runs=3, progress=False)["n"]
    assert result.memory.allocated_bytes == pytest.approx(4000 + IMAGE + buffers * FEATURE, abs=1024)
    assert result.median_ms > 0
