"""Time and peak memory of a network's forward pass, on the CPU and on CUDA.

Two ways of measuring. :func:`measure` is the one to trust: it warms up, repeats, and runs the networks in turns, so
that a machine that slows down meanwhile slows all of them. :func:`measure_as_challenge` does what the NTIRE efficient
SR challenges do: one pass over a dataset's images, in order, without a warm-up.

Peak memory is the same quantity in both and on both devices: parameters and buffers, the LR image, and what the forward
pass has allocated at its fullest moment; it is what ``torch.cuda.max_memory_allocated`` reports when the process holds
nothing else. On the CPU it is read from the allocator's own log of every allocation and release, which the profiler
keeps. That log does not see the scratch space that oneDNN takes from the operating system by itself, so on Linux the
growth of the resident set is measured as well.
"""

from __future__ import annotations

import copy
import ctypes
import os
import platform
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, quantiles

import torch
from torch import Tensor, nn
from tqdm import tqdm

from fmen_eval.errors import EvaluationError


@dataclass(frozen=True)
class PeakMemory:
    """The fullest moment of a forward pass.

    Attributes:
        allocated_bytes: Parameters, buffers, image, and the most that the pass had allocated at a time.
        resident_bytes: The same with the growth of the process's resident set in place of the allocations; None
            where that cannot be measured: on CUDA and outside Linux.
    """

    allocated_bytes: int
    resident_bytes: int | None


@dataclass(frozen=True)
class Runtime:
    """Time and memory of one network on one image size.

    Attributes:
        times_ms: Milliseconds of each run, in the order in which they happened.
        memory: The peak of one forward pass.
    """

    times_ms: tuple[float, ...]
    memory: PeakMemory

    @property
    def median_ms(self) -> float:
        """The median run."""
        return median(self.times_ms)

    @property
    def quartiles_ms(self) -> tuple[float, float]:
        """A quarter of the runs is faster than the first, a quarter slower than the second."""
        if len(self.times_ms) == 1:
            return self.times_ms[0], self.times_ms[0]
        lower, _, upper = quantiles(self.times_ms, n=4, method="inclusive")
        return lower, upper

    @property
    def spread(self) -> float:
        """The distance of the quartiles as a fraction of the median."""
        lower, upper = self.quartiles_ms
        return (upper - lower) / self.median_ms


@dataclass(frozen=True)
class ChallengeRuntime:
    """Time and memory as the challenge reports them.

    Attributes:
        mean_ms: Mean milliseconds per image of the dataset.
        peak_memory_bytes: The fullest moment over the whole dataset.
        images: How many images the dataset has.
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
    """Measure networks side by side on one random LR image.

    Every round runs every network once, in an order drawn afresh, so that neither a drifting clock rate nor the state
    in which a predecessor leaves the caches favours one of them. The networks themselves are left untouched.

    Args:
        networks: Modules by name; each maps RGB ``(1, 3, H, W)`` to the SR image.
        lr_size: ``(H, W)`` of the LR image.
        device: Where they run, e.g. ``"cpu"`` or ``"cuda"``.
        runs: Timed forward passes per network.
        warmup: Untimed ones before them.
        dtype: Of parameters and image.
        progress: Show a bar over the rounds.

    Returns:
        A result per network, in the order given.

    Raises:
        EvaluationError: There is no network to measure, or nothing to measure it by.
    """
    if not networks or runs < 1 or warmup < 0:
        raise EvaluationError(
            f"{len(networks)} networks, {runs} runs and {warmup} for warm-up: one network and run at least"
        )
    device = torch.device(device)
    image = torch.rand(1, 3, *lr_size, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    placed = {name: copy.deepcopy(network).eval().to(device, dtype) for name, network in networks.items()}
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
    """Measure a network as the NTIRE challenges' ``test_demo.py`` does: one pass over the images, nothing warmed up.

    On CUDA the peak is that of all passes, as ``torch.cuda.max_memory_allocated`` has it. The CPU keeps no such record,
    so there the largest image is run once more, untimed, to measure it.

    Args:
        network: Maps RGB ``(1, 3, H, W)`` to the SR image.
        images: LR images ``(1, 3, H, W)`` in the network's data range; read one at a time, untimed.
        device: Where it runs, e.g. ``"cpu"`` or ``"cuda"``.
        progress: Show a bar over the images.

    Raises:
        EvaluationError: There are no images.
    """
    device = torch.device(device)
    placed = copy.deepcopy(network).eval().to(device)
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
    """The memory that one forward pass needs at its fullest moment.

    Run the network on the image once before, so that what only a first pass allocates is not counted.

    Args:
        network: In eval mode, on the device of the image.
        image: ``(1, 3, H, W)``.
    """
    standing = _weight_bytes(network) + image.nbytes
    if image.device.type == "cuda":
        before = _reset_cuda_peak(image.device)
        _forward(network, image)
        return PeakMemory(standing + torch.cuda.max_memory_allocated(image.device) - before, None)
    allocated = allocated_by(lambda: _forward(network, image))
    resident = resident_growth(lambda: _forward(network, image))
    return PeakMemory(standing + allocated, None if resident is None else standing + resident)


def allocated_by(action: Callable[[], None]) -> int:
    """The most bytes that PyTorch's CPU allocator had handed out at a time during ``action``, above the start."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler announces its start and stop on stderr
    with torch.autograd.profiler.profile(profile_memory=True) as profiler:
        action()
    log = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(log, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def resident_growth(action: Callable[[], None]) -> int | None:
    """How far the process's resident set grew at most during ``action``, in bytes; None where Linux does not tell."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier passes freed goes back, or this one would reuse it unseen
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark to the present size
    except (OSError, AttributeError, TypeError):
        return None
    before = _process_status("VmRSS")
    action()
    return max(0, _process_status("VmHWM") - before)


def device_name(device: torch.device | str) -> str:
    """What a report calls the machine: the GPU's name, or the CPU's and its number of threads in use."""
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
    """Milliseconds of one forward pass."""
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
    """Forget the peak so far; returns the bytes in use now. On other devices nothing happens and nothing is in use."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _process_status(field: str) -> int:
    """A field of Linux's account of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
