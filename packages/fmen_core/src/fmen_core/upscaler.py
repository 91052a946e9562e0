"""Run a network on images of any size, in any precision, whole or in tiles that meet without a seam."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fmen_core.architecture import scale_and_range
from fmen_core.errors import ModelError
from fmen_core.precision import fit_half
from fmen_core.reparam import reparameterize
from fmen_core.steady import SteadySigmoids
from fmen_core.tiling import (
    CPU_BUDGET,
    CUDA_BUDGET,
    SMALLEST_TILE,
    TILE_SHARE,
    free_memory,
    largest_tile,
    needed_bytes,
    receptive_radius,
    recycled_memory,
    windows,
)

Image = npt.NDArray[np.uint8]
AnyImage = TypeVar("AnyImage", npt.NDArray[np.uint8], npt.NDArray[np.uint16])
Precision = Literal["auto", "fp32", "bf16", "fp16"]

SMALL = 2**15
"""So many LR pixels fit on any machine."""

LARGE = 2**17
"""From so many LR pixels on, features are larger than what glibc keeps of the memory that is freed."""

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Upscaler:
    """A network as a function from image to image: ``(H, W, 3) RGB`` to ``(scale*H, scale*W, 3) RGB``.

    Images are uint8, or uint16 with white at 65535; what comes out is what went in.

    Args:
        model: Any network of this package; a training form is re-parameterized first. The model itself is not changed.
        device: ``"auto"`` takes CUDA where there is one.
        precision: The arithmetic of the convolutions, save the last one's, which is always fp32: ``"fp32"``,
            ``"bf16"`` or ``"fp16"``. ``"auto"`` takes what is fast there: fp16 on CUDA, or bf16 if the network leaves
            fp16's range; bf16 on a processor that has instructions for it; fp32 elsewhere.
        tile: Side of the LR tiles that the image is cut into, or None for the whole image at once; ``"auto"`` for the
            whole image where it takes less than 1.25 GiB (8 GiB on a GPU) and half of the free memory, or else for the
            largest tiles that take three fifths of that. A network that looks at the whole image at once is never cut.
            Each tile is read with a margin as wide as the network can see, so that the result is that of the whole
            image: to the bit with ``channels_last`` on the CPU, elsewhere up to the rounding of sums formed in another
            order.
        channels_last: Keep the channels of a pixel together in memory, which is faster. The sums are formed in
            another order than in the published implementations, which moves a PSNR in its sixth digit.
        ensemble: Return the mean of the network's answers to the image's eight flips and rotations: some hundredths
            of a dB for eight times the time.

    Raises:
        ModelError: The precision or the tile is none of those above; the network looks at the whole image at once and
            cannot be tiled; or it leaves the range of fp16.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        device: str = "auto",
        precision: Precision = "fp32",
        tile: int | Literal["auto"] | None = "auto",
        channels_last: bool = True,
        ensemble: bool = False,
    ) -> None:
        if precision not in ("auto", *DTYPES):
            raise ModelError(f"precision {precision!r} is unknown; choose one of {', '.join(DTYPES)} and auto")
        if isinstance(tile, int) and tile < SMALLEST_TILE:
            raise ModelError(f"a tile of {tile} pixels is too small; choose {SMALLEST_TILE} or more")
        self.device = torch.device(pick_device(device))
        self.scale, self.data_range = scale_and_range(model)
        self.model = reparameterize(model)
        self.precision = pick_precision(self.model, self.device, precision)
        self.dtype = DTYPES[self.precision]
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        if self.dtype != torch.float32:
            lower(self.model, self.dtype)
        self.model.to(device=self.device, memory_format=self.memory_format)  # type: ignore[call-overload]
        self.ensemble = ensemble
        self.tile = tile
        if isinstance(tile, int) and self.radius is None:
            raise ModelError("this network samples or averages the image as a whole and cannot be tiled: tile=None")

    @cached_property
    def radius(self) -> int | None:
        """How many LR pixels around a pixel the network looks at; None if at all of them."""
        return receptive_radius(self.model)

    @cached_property
    def bytes_per_pixel(self) -> float:
        """The memory that a forward pass takes, per LR pixel."""
        return needed_bytes(self.model, self.dtype)

    def __call__(self, lr: AnyImage, *, on_tile: Callable[[int, int], object] | None = None) -> AnyImage:
        """Upscale one image.

        Args:
            lr: ``(H, W, 3)`` RGB, uint8 or uint16.
            on_tile: Told after every tile how many are done, and of how many.

        Raises:
            ModelError: It is no such image; it holds what the network cannot compute in fp16; or the memory does not
                suffice for a network that cannot be tiled.
        """
        if lr.dtype not in (np.uint8, np.uint16) or lr.ndim != 3 or lr.shape[2] != 3 or not lr.size:
            raise ModelError(f"expected a uint8 or uint16 (H, W, 3) image, got {lr.dtype} {lr.shape}")
        height, width = lr.shape[:2]
        tile = self.side_of_tiles(height, width, lr.itemsize)
        large = self.device.type == "cpu" and height * width >= LARGE
        with recycled_memory() if large else nullcontext():
            return self.run(lr) if tile is None else self.run_tiles(lr, tile, on_tile)

    def run_tiles(self, lr: AnyImage, tile: int, on_tile: Callable[[int, int], object] | None = None) -> AnyImage:
        """One image in tiles of at most ``tile`` LR pixels a side."""
        height, width = lr.shape[:2]
        margin = self.radius or 0
        rows, columns = list(windows(height, tile, margin)), list(windows(width, tile, margin))
        scale, total = self.scale, len(rows) * len(columns)
        sr = np.empty((height * scale, width * scale, 3), lr.dtype)
        for i, (top, bottom, first_row, last_row) in enumerate(rows):
            for j, (left, right, first_column, last_column) in enumerate(columns):
                out = self.run(lr[first_row:last_row, first_column:last_column])
                row, column = (top - first_row) * scale, (left - first_column) * scale
                target = sr[top * scale : bottom * scale, left * scale : right * scale]
                target[:] = out[row : row + target.shape[0], column : column + target.shape[1]]
                if on_tile is not None:
                    on_tile(i * len(columns) + j + 1, total)
        return sr

    def side_of_tiles(self, height: int, width: int, itemsize: int = 1) -> int | None:
        """The side of the tiles that an LR image of this size is cut into, or None if it is not cut.

        Raises:
            ModelError: It has to be cut, but the network cannot be tiled.
        """
        if self.tile != "auto":
            return self.tile
        if height * width <= SMALL:
            return None
        needed = self.bytes_per_pixel * height * width
        result = height * width * self.scale**2 * 3 * itemsize  # lies in the host's memory, wherever the network runs
        free = max(0, free_memory(self.device) - (result if self.device.type == "cpu" else 0))
        budget = min(free // 2, CUDA_BUDGET if self.device.type == "cuda" else CPU_BUDGET)
        if needed <= budget:
            return None
        if self.radius is not None:
            return largest_tile(self.bytes_per_pixel, self.radius, TILE_SHARE * budget)
        if needed > free:
            raise ModelError(
                f"{width}x{height} pixels need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free, and this network "
                "cannot be tiled; choose another network, or cut the image"
            )
        return None

    @torch.inference_mode()
    def run(self, lr: AnyImage) -> AnyImage:
        """One image or tile at once."""
        white = float(np.iinfo(lr.dtype).max)
        x = torch.from_numpy(np.require(lr, requirements=["C", "W"])).to(self.device).permute(2, 0, 1)[None].float()
        if self.data_range != white:
            x = x / (white / self.data_range)  # divided, as the published code does: its last bits turn pixels, too
        x = x.to(self.dtype).contiguous(memory_format=self.memory_format)
        with SteadySigmoids():
            out = self.mean_of_eight(x) if self.ensemble else self.model(x)
        if self.dtype == torch.float16 and not out.isfinite().all():
            raise ModelError("this network leaves the range of fp16 on this image; choose bf16 or fp32")
        if lr.dtype == np.uint8:
            pixels: Any = to_image(out, self.data_range)
        else:
            pixels = np.ascontiguousarray(scaled(out, self.data_range, white).cpu().numpy(), lr.dtype)
        sr: AnyImage = pixels
        return sr

    def mean_of_eight(self, x: Tensor) -> Tensor:
        """The mean of the answers to the flips and rotations of ``x`` ``(1, 3, H, W)``, turned back."""
        total: Any = 0
        for mirrored in (False, True):
            for quarters in range(4):
                turned = torch.rot90(x.flip(3) if mirrored else x, quarters, (2, 3))
                out = self.model(turned.contiguous(memory_format=self.memory_format)).float()
                out = torch.rot90(out, -quarters, (2, 3))
                total = total + (out.flip(3) if mirrored else out)
        mean: Tensor = total / 8
        return mean


def to_image(out: Tensor, data_range: float) -> Image:
    """A network's output ``(1, 3, H, W)`` in ``[0, data_range]``, clamped and rounded, as ``uint8 (H, W, 3)``."""
    pixels: Image = scaled(out, data_range, 255.0).to(torch.uint8).contiguous().cpu().numpy()
    return pixels


def scaled(out: Tensor, data_range: float, white: float) -> Tensor:
    """A network's output, clamped and rounded, as ``(H, W, 3)`` in ``[0, white]``."""
    out = out[0].float()
    if data_range != white:
        out = out * (white / data_range)
    return out.clamp_(0, white).round_().permute(1, 2, 0)


def pick_device(device: str) -> str:
    """The device that ``"auto"`` stands for; any other name as it is.

    Raises:
        ModelError: The device is not there.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"device {device!r} was asked for, but this PyTorch sees no CUDA GPU; choose cpu or auto")
    return device


def pick_precision(model: nn.Module, device: torch.device, precision: Precision) -> str:
    """The precision that ``"auto"`` stands for, or ``precision`` itself.

    Where it is fp16, ``model``, in its inference form and in float32, is made fit for it in place.

    Raises:
        ModelError: fp16 was asked for by name and the network leaves its range.
    """
    if precision == "auto":
        if device.type == "cuda" and fit_half(model):
            return "fp16"
        return "bf16" if has_bf16(device) else "fp32"
    if precision == "fp16" and not fit_half(model):
        raise ModelError("this network's values are larger than fp16 can hold; choose bf16 or fp32")
    return precision


def lower(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert ``model``, in float32, to ``dtype`` in place, save the convolution in front of its pixel shuffle.

    The numbers of bf16 between 128 and 256 are the integers, too coarse for the result itself. A fifth of what bf16
    costs FMEN-S, 0.011 dB on Set5, is won back so.
    """
    tails = [module for module in model.modules() if isinstance(module, nn.Sequential) and len(module)]
    tails = [module for module in tails if isinstance(module[-1], nn.PixelShuffle)]
    exact = [copy.deepcopy(tail.state_dict()) for tail in tails]
    model.to(dtype)
    for tail, weights in zip(tails, exact, strict=True):
        tail.float().load_state_dict(weights)
        tail.register_forward_pre_hook(lambda _, inputs: tuple(x.float() for x in inputs))


def has_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bf16; without them bf16 is emulated, and slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    cpuinfo = Path("/proc/cpuinfo")  # PyTorch has no public call that tells
    flags = set(cpuinfo.read_text(errors="replace").split()) if cpuinfo.is_file() else set()
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16"})
