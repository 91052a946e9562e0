"""How an image too large for the memory is cut into tiles that meet without a seam.

Every tile is read with a margin as wide as the network can see. The margins are computed twice or more, so tiles are as
large as the memory allows.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from fmen_core.architecture import scale_and_range
from fmen_core.blocks.attention import SpatialGate
from fmen_core.reparam import reparameterize

MIB = 2**20

SMALLEST_TILE = 16

CPU_BUDGET = 1280 * MIB
"""Bytes that a forward pass may take on the CPU before an image is cut."""

CUDA_BUDGET = 8 * 2**30

TILE_SHARE = 0.6
"""What a tile may take of these: one after another, tiles leave holes in memory that the next ones do not fill. FMEN-S
has tiles of 800 pixels on the CPU then, whose margins cost 14 %, and upscales a 4000x3000 image in less than 2 GiB, its
result and PyTorch itself included."""

ALLOWANCE = 1.5
"""For what is not counted: results that no layer takes or returns, and what convolutions need while they run."""

_PROBE = 48  # pixels


def windows(length: int, tile: int, margin: int) -> Iterator[tuple[int, int, int, int]]:
    """Cut one side of an image into tiles of at most ``tile`` pixels and margins.

    Yields:
        ``(start, stop, first, last)``: the tile's own pixels ``start:stop``, and the pixels ``first:last`` read for
        them, ``margin`` more on either side unless the image ends there. As many are read for each tile, so that its
        features fit into the memory that those of the tile before have left.
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


@torch.inference_mode()
def needed_bytes(model: nn.Module, dtype: torch.dtype = torch.float32) -> float:
    """The memory that a forward pass takes at its peak, in bytes per LR pixel, weights aside.

    Found by running ``model``, in its inference form and for inputs of ``dtype``, on a small image: what goes into and
    comes out of each of its layers is looked at, and how much of that is alive at the same time.
    """
    live: dict[int, tuple[StorageWeakRef, int]] = {}
    peak = 0

    def note(*tree: Any) -> None:
        nonlocal live, peak
        for tensor in tree_leaves(tree):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())  # type: ignore[no-untyped-call]
        live = {key: entry for key, entry in live.items() if not entry[0].expired()}  # type: ignore[no-untyped-call]
        peak = max(peak, sum(size for _, size in live.values()))

    device = next((weight.device for weight in model.parameters()), None)
    with ExitStack() as hooks:
        for layer in model.modules():
            if not any(layer.children()):
                hooks.callback(layer.register_forward_hook(lambda _, inputs, out: note(inputs, out)).remove)
        model(torch.zeros(1, 3, _PROBE, _PROBE, dtype=dtype, device=device))
    return ALLOWANCE * peak / _PROBE**2


def free_memory(device: torch.device) -> int:
    """The bytes that can still be allocated on ``device``; 2 GiB where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines() if ":" in line)
        free.append(int(lines["MemAvailable"].split()[0]) * 1024)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")  # a container's own limit
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdecimal():
        free.append(int(limit.read_text()) - int(used.read_text()))
    return max(0, min(free)) if free else 2 * 2**30


@contextmanager
def recycled_memory() -> Iterator[None]:
    """While this lasts, what is freed is kept for what is allocated next, where the C library is glibc.

    Left to itself, glibc gives large blocks back to the system, which clears every page of them for the next layer: up
    to a quarter of the time of a forward pass over a large image.
    """
    trim_threshold, mmap_threshold, mmap_max = -1, -3, -4  # of malloc.h
    try:
        library = ctypes.CDLL(None)
        set_option, give_back = library.mallopt, library.malloc_trim
    except (OSError, AttributeError, TypeError):
        yield
        return
    set_option(mmap_max, 0)
    set_option(trim_threshold, -1)
    try:
        yield
    finally:
        set_option(mmap_max, 65536)
        set_option(mmap_threshold, 32 * MIB)  # where glibc's own adjustment, which ends with the first call, leads to
        set_option(trim_threshold, 64 * MIB)
        give_back(0)


def largest_tile(per_pixel: float, margin: int, budget: float) -> int:
    """The side of the largest square tile that, with its margins, stays within ``budget`` bytes; at least 32."""
    return max(2 * SMALLEST_TILE, int(math.sqrt(budget / per_pixel)) - 2 * margin)


@torch.inference_mode()
def receptive_radius(model: nn.Module, limit: int = 96) -> int | None:
    """How many LR pixels away an input pixel can still change an output pixel; None if it reaches farther than
    ``limit``, as in a network that averages over the whole image, or if spatial attention looks at the image on a
    coarse grid, which would lie elsewhere in a tile.

    Found by experiment: one input pixel is not a number, and every output pixel that depends on it, however weakly, is
    not a number either.
    """
    network = reparameterize(model).float()
    if any(isinstance(module, SpatialGate) for module in network.modules()):
        return None
    side = 2 * limit + 3
    x = torch.zeros(1, 3, side, side, device=next((weight.device for weight in network.parameters()), None))
    x[..., side // 2, side // 2] = torch.nan
    scale, _ = scale_and_range(network)
    touched = network(x).isnan().any(1)[0]
    rows = touched.any(1).nonzero().flatten() // scale
    columns = touched.any(0).nonzero().flatten() // scale
    reach = torch.cat([rows - side // 2, columns - side // 2]).abs().max().item()
    return None if reach > limit else int(reach)
