"""How an image that does not fit into memory is cut into tiles whose results join without a seam.

Every tile is read with a margin as wide as the network's receptive field reaches. Margins are computed more than once,
so tiles are as large as the memory allows.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from fmen_core.architecture import sr_model
from fmen_core.blocks.attention import SpatialGate
from fmen_core.control_groups import control_groups
from fmen_core.device import device_of
from fmen_core.errors import ModelError
from fmen_core.precision import PROBE_SIDE
from fmen_core.reparam import reparameterize

MIB = 2**20

SMALLEST_TILE = 16

CPU_BUDGET = 1280 * MIB
"""Bytes that a forward pass on the CPU may take before an image is cut into tiles."""

CUDA_BUDGET = 8 * 2**30

TILE_SHARE = 0.6
"""Share of the budget that a tile may take, because freed tiles fragment the memory. On the CPU, FMEN-S then has tiles
of 800 pixels, whose margins cost 14 %, and upscales a 4000x3000 image in less than 2 GiB with PyTorch and the result
(``tools/bench/tiling.py``)."""

ALLOWANCE = 1.5
"""Factor for what is not counted: results of functions, and the scratch memory of convolutions."""

UNKNOWN_FREE = 2 * 2**30

LARGEST_MINIMUM = 64
"""The largest minimum input, in pixels, that a network may have."""


def windows(length: int, tile: int, margin: int) -> Iterator[tuple[int, int, int, int]]:
    """Cut one side of an image into tiles of at most ``tile`` pixels and margins.

    Yields:
        ``(start, stop, first, last)``: the tile's own pixels ``start:stop``, and the pixels ``first:last`` that are
        read for them: ``margin`` more on either side, except at the ends of the image. The length of ``first:last`` is
        the same for every tile, so that the memory of one tile can be reused for the next.
    """
    tiles = math.ceil(length / tile)
    size = min(length, math.ceil((length + 2 * margin * (tiles - 1)) / tiles))
    start = 0
    while start < length:
        first = max(0, min(start - margin, length - size))
        last = first + size
        stop = length if last == length else last - margin
        yield start, stop, first, last
        start = stop


@dataclass(frozen=True)
class Tiling:
    """What tiling depends on, for a network that it cannot be measured on; its attribute ``tiling``.

    Attributes:
        radius: Radius of the receptive field in LR pixels; None if the network cannot be tiled.
        bytes_per_pixel: Peak memory of a forward pass per LR pixel.
    """

    radius: int | None
    bytes_per_pixel: float


def stated_tiling(model: nn.Module) -> Tiling | None:
    """Return the attribute ``tiling`` of a network."""
    found = getattr(model, "tiling", None)
    return found if isinstance(found, Tiling) else None


@torch.inference_mode()
def needed_bytes(model: nn.Module) -> float:
    """Return the peak memory of a forward pass in bytes per LR pixel, without the weights.

    A copy of ``model`` runs on a small image while hooks record the sizes and lifetimes of its layers' inputs and
    outputs.

    Args:
        model: A network in its inference form, in any precision.
    """
    if stated := stated_tiling(model):
        return stated.bytes_per_pixel
    network = copy.deepcopy(model)
    live: dict[int, tuple[StorageWeakRef, int]] = {}
    peak = 0

    def record(*tree: Any) -> None:
        nonlocal live, peak
        for tensor in tree_leaves(tree):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())  # type: ignore[no-untyped-call]
        live = {key: entry for key, entry in live.items() if not entry[0].expired()}  # type: ignore[no-untyped-call]
        peak = max(peak, sum(size for _, size in live.values()))

    for layer in network.modules():
        if not any(layer.children()):
            layer.register_forward_hook(lambda _, inputs, out: record(inputs, out))
    network(torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE, device=device_of(network)))
    return ALLOWANCE * peak / PROBE_SIDE**2


def free_memory(device: torch.device, *, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes that can still be allocated on ``device``; 2 GiB where the system does not tell.

    On the CPU the limits of the process's control groups (a container's limit) count, versions 1 and 2. Memory that
    PyTorch's CUDA allocator has reserved and does not use is free.

    Args:
        device: The CPU or a GPU.
        proc: Where ``/proc`` is mounted.
        cgroups: Where the control groups are mounted.
    """
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    free = list(_cgroup_free(proc, cgroups))
    meminfo = proc / "meminfo"
    if meminfo.is_file():
        available = _fields(meminfo).get("MemAvailable:")
        free += [] if available is None else [available * 1024]
    return max(0, min(free)) if free else UNKNOWN_FREE


def _cgroup_free(proc: Path, mount: Path) -> Iterator[int]:
    """Yield the bytes that each limited control group of this process leaves free.

    ``inactive_file`` is page cache that the kernel drops when memory is needed, so it counts as free.
    """
    files = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }
    for version, group in control_groups("memory", proc=proc, mount=mount):
        limit, usage, statistics = (group / name for name in (*files[version][:2], "memory.stat"))
        if limit.is_file() and usage.is_file() and limit.read_text().strip().isdecimal():
            cache = _fields(statistics).get(files[version][2], 0) if statistics.is_file() else 0
            yield int(limit.read_text()) - int(usage.read_text()) + cache


def _fields(file: Path) -> dict[str, int]:
    """Read the first number behind each name of a file of ``NAME NUMBER`` lines."""
    rows = [line.split() for line in file.read_text().splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed, on the CPU or on a GPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    failures = ("DefaultCPUAllocator", "STATUS_ALLOC_FAILED", "out of memory")
    return isinstance(error, RuntimeError) and any(failure in str(error) for failure in failures)


def largest_tile(per_pixel: float, margin: int, budget: float) -> int:
    """Return the side of the largest square tile that takes ``budget`` bytes with its margins; at least 32."""
    return max(2 * SMALLEST_TILE, int(math.sqrt(budget / per_pixel)) - 2 * margin)


EQUIVARIANCE_TOLERANCE = 1e-3
"""Largest difference that is_equivariant accepts, relative to the largest output: sums round differently."""


@torch.inference_mode()
def receptive_radius(model: nn.Module, limit: int = 96) -> int | None:
    """Return the distance in LR pixels at which an input pixel can still change an output pixel.

    Found by experiment: one input pixel is NaN, and so is every output pixel that depends on it, however weakly.

    Args:
        model: A network in float32; a copy of it runs.
        limit: The largest radius that is looked for.

    Returns:
        The radius. None if it is larger than ``limit``, as in a network that averages over the whole image, or if the
        network computes on a coarse grid, whose position would differ in a tile: spatial attention, strides, windows.
    """
    if stated := stated_tiling(model):
        return stated.radius
    network = reparameterize(model)
    if any(isinstance(module, SpatialGate) for module in network.modules()):
        return None
    side = 2 * limit + 3
    x = torch.zeros(1, 3, side, side, device=device_of(network))
    x[..., side // 2, side // 2] = torch.nan
    scale = sr_model(network).scale
    touched = network(x).isnan().any(1)[0]
    rows = touched.any(1).nonzero().flatten() // scale
    columns = touched.any(0).nonzero().flatten() // scale
    reach = torch.cat([rows - side // 2, columns - side // 2]).abs().max().item()
    return int(reach) if reach <= limit and is_equivariant(network, int(reach)) else None


@torch.inference_mode()
def is_equivariant(network: nn.Module, radius: int) -> bool:
    """Return whether the output of a network moves with its input, when that moves by one pixel.

    Args:
        network: A network in float32.
        radius: The radius of its receptive field; pixels that see the border are not compared.
    """
    side, scale = max(64, 2 * radius + 8), sr_model(network).scale
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, side + 1, side + 1, generator=generator).to(device_of(network))
    image *= sr_model(network).data_range
    first, second = network(image[..., :-1, :-1]), network(image[..., 1:, 1:])
    low, high = scale * radius, scale * (side - radius - 1)
    first = first[..., low + scale : high + scale, low + scale : high + scale]
    second = second[..., low:high, low:high]
    return bool((first - second).abs().max() <= EQUIVARIANCE_TOLERANCE * second.abs().max())


@torch.inference_mode()
def smallest_side(model: nn.Module) -> int:
    """Return the side in pixels of the smallest square image that a copy of ``model`` can run on.

    Raises:
        ModelError: The network cannot run on an image of 64x64 pixels.
    """
    network = copy.deepcopy(model)
    reason = ""
    for side in range(1, LARGEST_MINIMUM + 1):
        try:
            network(torch.zeros(1, 3, side, side, device=device_of(network)))
        except Exception as error:  # A network may be any user's code and may raise anything.
            if is_out_of_memory(error):
                raise
            reason = str(error).strip().split("\n", maxsplit=1)[0]
        else:
            return side
    raise ModelError(f"{type(model).__name__} cannot run on a {side}x{side} image: {reason}")
