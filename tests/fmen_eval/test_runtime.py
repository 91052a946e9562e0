"""Time and memory of a forward pass."""

from __future__ import annotations

import sys
import time

import pytest
import torch
from torch import Tensor, nn

from fmen_eval import device_name, measure, measure_as_challenge, peak_memory

FEATURE = 8 * 64 * 64 * 4  # bytes of 8 channels of a 64x64 image in float32
IMAGE = 3 * 64 * 64 * 4


class Sleeper(nn.Module):
    """Takes as long as it is told and keeps a diary."""

    def __init__(self, seconds: float, diary: list[str], name: str) -> None:
        super().__init__()
        self.seconds, self.diary, self.name = seconds, diary, name

    def __deepcopy__(self, memo: object) -> Sleeper:
        return self

    def forward(self, image: Tensor) -> Tensor:
        self.diary.append(self.name)
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
    diary: list[str] = []
    results = measure(
        {"slow": Sleeper(0.02, diary, "slow"), "fast": Sleeper(0.002, diary, "fast")},
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
    diary: list[str] = []
    names = ["a", "b", "c"]
    measure({name: Sleeper(0, diary, name) for name in names}, (8, 8), runs=10, warmup=0, progress=False)
    rounds = [diary[start : start + 3] for start in range(0, 30, 3)]
    assert all(sorted(turn) == names for turn in rounds)
    assert len({tuple(turn) for turn in rounds}) > 2


@pytest.mark.parametrize("buffers", [1, 3])
def test_peak_on_the_cpu_is_weights_and_image_and_what_the_pass_allocates(buffers: int) -> None:
    peak = peak_memory(Doubling(buffers), torch.zeros(1, 3, 64, 64))
    assert peak.allocated_bytes == 4000 + IMAGE + buffers * FEATURE


def test_resident_set_grows_by_what_the_pass_touches() -> None:
    image = torch.zeros(1, 3, 1024, 1024)
    peak = peak_memory(Doubling(2), image)
    if sys.platform != "linux":
        assert peak.resident_bytes is None
        return
    expected = 4000 + image.nbytes + 2 * 8 * 1024 * 1024 * 4
    assert peak.resident_bytes == pytest.approx(expected, rel=0.05)


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


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="one network and run at least"):
        measure({}, (8, 8))
    with pytest.raises(ValueError, match="no images"):
        measure_as_challenge(nn.Identity(), [], progress=False)


@pytest.fixture
def cuda() -> str:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    return "cuda"


@pytest.mark.parametrize("buffers", [1, 3])
def test_peak_on_cuda_is_weights_and_image_and_what_the_pass_allocates(cuda: str, buffers: int) -> None:
    result = measure({"n": Doubling(buffers)}, (64, 64), device=cuda, runs=3, progress=False)["n"]
    assert result.memory.allocated_bytes == pytest.approx(4000 + IMAGE + buffers * FEATURE, abs=1024)
    assert result.memory.resident_bytes is None
    assert result.median_ms > 0
