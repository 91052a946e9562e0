"""Time and peak memory of a network's forward pass, on the CPU and on CUDA.

:func:`measure` compares networks: it warms up, repeats, and interleaves the networks, so that a machine that slows down
affects all of them. :func:`measure_as_challenge` measures as the NTIRE efficient SR challenges do: one pass over the
images of a dataset, in order, without warm-up.

Peak memory is the same quantity in both and on both devices: parameters and buffers, the LR image, and the largest sum
of what the forward pass has allocated at a time. It equals ``torch.cuda.max_memory_allocated`` of a process that holds
nothing else. On the CPU it is computed from the profiler's record of allocations. That record does not include the
scratch memory of oneDNN, which the operating system provides directly.
"""

from __future__ import annotations

import os
import platform
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from fmen_eval.errors import EvaluationError
from fmen_eval.meta import copy_of


@dataclass(frozen=True)
class PeakMemory:
    """The peak memory of a forward pass.

    Attributes:
        allocated_bytes: Parameters, buffers, image, and the largest sum of the pass's allocations at a time.
    """

    allocated_bytes: int


@dataclass(frozen=True)
class Runtime:
    """Time and memory of one network on one image size.

    Attributes:
        times_ms: Milliseconds of each run, in order.
        memory: The peak memory of one forward pass.
    """

    times_ms: tuple[float, ...]
    memory: PeakMemory

    @property
    def median_ms(self) -> float:
        """Median milliseconds."""
        return median(self.times_ms)

    @property
    def quartiles_ms(self) -> tuple[float, float]:
        """The lower and the upper quartile of the milliseconds."""
        if len(self.times_ms) == 1:
            return self.times_ms[0], self.times_ms[0]
        lower, _, upper = quantiles(self.times_ms, n=4, method="inclusive")
        return lower, upper

    @property
    def spread(self) -> float:
        """The interquartile range divided by the median."""
        lower, upper = self.quartiles_ms
        return (upper - lower) / self.median_ms


@dataclass(frozen=True)
class ChallengeRuntime:
    """Time and memory as the challenge reports them.

    Attributes:
        mean_ms: Mean milliseconds per image of the dataset.
        peak_memory_bytes: Peak memory over the whole dataset.
        images: Number of images.
    """

    mean_ms: float
    peak_memory_bytes: int
    images: int


def measure(
    networks: Mapping[str, nn.Module],
    lr_size: tuple[int, int] = (256, 256),
    *,
    device: torch.device | str = "cpu",
    runs: int = 20,
    warmup: int = 3,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
) -> dict[str, Runtime]:
    """Measure several networks on one random LR image.

    Every round runs every network once, in a new random order, so that neither a drifting clock rate nor the contents
    of the caches favours one of them. The networks are not changed. float32 is computed as PyTorch's flags say; see
    :func:`arithmetic`.

    Args:
        networks: Modules by name; each maps RGB ``(1, 3, H, W)`` to the SR image.
        lr_size: ``(H, W)`` of the LR image.
        device: Where they run, e.g. ``"cpu"`` or ``"cuda"``.
        runs: Number of timed forward passes per network.
        warmup: Number of untimed passes before them.
        dtype: Type of parameters and image.
        progress: Show a progress bar.

    Returns:
        The results by name, in the order given.

    Raises:
        EvaluationError: There is no network, the number of runs is not positive, or that of warm-up runs negative.
    """
    if not networks or runs < 1 or warmup < 0:
        raise EvaluationError(
            f"{len(networks)} networks, {runs} runs, {warmup} warm-up runs: give at least one network "
            "and one run, and no negative number"
        )
    device = torch.device(device)
    image = torch.rand(1, 3, *lr_size, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    placed = {name: copy_of(network).eval().to(device, dtype) for name, network in networks.items()}
    times: dict[str, list[float]] = {name: [] for name in placed}
    order = list(placed)
    shuffle = random.Random(0).shuffle
    for turn in tqdm(range(-warmup, runs), desc="runtime", unit="round", disable=not progress, leave=False):
        shuffle(order)
        for name in order:
            elapsed = _timed(placed[name], image)
            if turn >= 0:
                times[name].append(elapsed)
    return {name: Runtime(tuple(times[name]), peak_memory(network, image)) for name, network in placed.items()}


def measure_as_challenge(
    network: nn.Module, images: Iterable[Tensor], *, device: torch.device | str = "cpu", progress: bool = True
) -> ChallengeRuntime:
    """Measure a network as the NTIRE challenges' ``test_demo.py`` does: one pass over the images, without warm-up.

    On CUDA the peak memory is that of all passes. On the CPU, which has no such counter, the largest image runs once
    more, untimed, to measure it.

    Args:
        network: Maps RGB ``(1, 3, H, W)`` to the SR image.
        images: LR images ``(1, 3, H, W)`` in the network's data range; read one at a time, outside the timing.
        device: Where it runs, e.g. ``"cpu"`` or ``"cuda"``.
        progress: Show a progress bar.

    Raises:
        EvaluationError: There are no images.
    """
    device = torch.device(device)
    placed = copy_of(network).eval().to(device)
    before = _reset_cuda_peak(device)
    times: list[float] = []
    largest: Tensor | None = None
    for image in tqdm(images, desc="runtime", unit="image", disable=not progress, leave=False):
        times.append(_timed(placed, image.to(device)))
        if largest is None or image.numel() > largest.numel():
            largest = image
    if largest is None:
        raise EvaluationError("there are no images to measure the runtime on")
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) - before + _weight_bytes(placed)
    else:
        peak = peak_memory(placed, largest).allocated_bytes
    return ChallengeRuntime(fmean(times), peak, len(times))


def peak_memory(network: nn.Module, image: Tensor) -> PeakMemory:
    """Measure the peak memory of one forward pass.

    Run the network on the image once before, so that allocations of the first pass alone are not counted.

    Args:
        network: In eval mode, on the device of the image.
        image: ``(1, 3, H, W)``.
    """
    standing = _weight_bytes(network) + image.nbytes
    if image.device.type == "cuda":
        before = _reset_cuda_peak(image.device)
        _forward(network, image)
        return PeakMemory(standing + torch.cuda.max_memory_allocated(image.device) - before)
    return PeakMemory(standing + allocated_by(lambda: _forward(network, image)))


def allocated_by(action: Callable[[], None]) -> int:
    """Return the largest sum of bytes that ``action`` had allocated at a time with PyTorch's CPU allocator."""
    with _quiet_profiler(), torch.autograd.profiler.profile(profile_memory=True) as profiler:
        action()
    log = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(log, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@contextmanager
def _quiet_profiler() -> Iterator[None]:
    """Suppress the profiler's messages on standard error; they are on by default."""
    name = "KINETO_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ.setdefault(name, "6")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def arithmetic(device: torch.device | str, dtype: torch.dtype = torch.float32) -> str:
    """Name the arithmetic of convolutions for a result's conditions, e.g. ``"float32 without TF32"`` on a GPU.

    PyTorch's flags decide whether float32 convolutions on a GPU run in TF32, which they do by default.
    """
    name = str(dtype).removeprefix("torch.")
    if torch.device(device).type != "cuda" or dtype != torch.float32:
        return name
    cudnn: Any = torch.backends.cudnn
    # PyTorch 2.9 has a flag for each operation and may refuse to read the older one.
    tf32 = cudnn.conv.fp32_precision == "tf32" if hasattr(cudnn, "conv") else cudnn.allow_tf32
    return f"{name} {'with' if tf32 else 'without'} TF32"


def device_name(device: torch.device | str) -> str:
    """Return the GPU's name, or the CPU's name and PyTorch's number of threads."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        models = [line.split(":", 1)[1].strip() for line in listing.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' if threads != 1 else ''}"


def _forward(network: nn.Module, image: Tensor) -> None:
    with torch.no_grad():
        network(image)


def _timed(network: nn.Module, image: Tensor) -> float:
    """Return the milliseconds of one forward pass."""
    if image.device.type != "cuda":
        started = time.perf_counter()
        _forward(network, image)
        return 1000 * (time.perf_counter() - started)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(image.device)
    with torch.cuda.device(image.device):
        start.record()
        _forward(network, image)
        end.record()
    torch.cuda.synchronize(image.device)
    return float(start.elapsed_time(end))


def _weight_bytes(network: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))


def _reset_cuda_peak(device: torch.device) -> int:
    """Reset the peak on a GPU and return the bytes that are allocated now; 0 on other devices."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)
