"""Run a network on images of any size, in any precision, whole or in tiles that join without a seam."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.architecture import sr_model, unwrap
from fmen_core.errors import ModelError
from fmen_core.precision import DTYPES, PROBE_SIDE, Precision, automatic_precisions, convert, float32_mode
from fmen_core.reparam import reparameterize
from fmen_core.tiling import (
    CPU_BUDGET,
    CUDA_BUDGET,
    SMALLEST_TILE,
    TILE_SHARE,
    free_memory,
    is_out_of_memory,
    largest_tile,
    needed_bytes,
    receptive_radius,
    smallest_side,
    windows,
)

Image = npt.NDArray[np.uint8]
AnyImage = TypeVar("AnyImage", npt.NDArray[np.uint8], npt.NDArray[np.uint16])
Value = TypeVar("Value")

SMALL = 2**15
"""Number of LR pixels that fit into the memory of any machine."""


@dataclass(frozen=True)
class Prepared:
    """A network in one precision.

    Attributes:
        model: Takes and returns float32 images.
        precision: ``"fp32"``, ``"tf32"``, ``"bf16"`` or ``"fp16"``.
        fallbacks: The precisions that are tried next if an output is not finite.
    """

    model: nn.Module
    precision: str
    fallbacks: tuple[str, ...]


class Upscaler:
    """A network as a function from image to image: ``(H, W, 3)`` RGB to ``(scale*H, scale*W, 3)`` RGB.

    Images are uint8, or uint16 with white at 65535; the output has the input's type. One upscaler may be used by
    several threads at the same time.

    Args:
        model: Any network of this package, in any floating-point type; a training form is re-parameterized first. The
            model itself is not changed.
        device: ``"auto"`` takes CUDA where there is a GPU.
        precision: The number format of the convolutions: ``"fp32"``, ``"tf32"`` (on a GPU), ``"bf16"`` or ``"fp16"``.
            The first and the last convolution are computed in fp32, unless TF32 is asked for. ``"auto"`` takes the
            fastest that the device has instructions for and that the network's values fit into: fp16 or bf16 on CUDA,
            bf16 on the CPU, otherwise fp32. If an image leaves its range, the next one is taken from then on.
        tile: Side of the LR tiles that the image is cut into, or None for the whole image at once. ``"auto"`` takes
            the whole image if it needs less than 1.25 GiB (8 GiB on a GPU) and half of the free memory, otherwise the
            largest tiles that need three fifths of that. A network with global or coarse-grid attention is never
            tiled. Each tile is read with a margin as wide as the receptive field. Results of tiles differ from those
            of the whole image by at most one gray level, in about one of a million values, because sums may be
            formed in another order. When memory runs out, the tiles' side is halved.
        channels_last: Store the channels of a pixel together, which is faster. The sums are formed in another order
            than in the published implementations, which changes a PSNR in its sixth digit.
        self_ensemble: Return the mean of the outputs for the image's eight flips and rotations: some hundredths of a
            dB more for eight times the time.

    Raises:
        ModelError: The precision or the tile is none of the above; the network cannot be tiled, or not be computed in
            this precision.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        device: str = "auto",
        precision: Precision = "fp32",
        tile: int | Literal["auto"] | None = "auto",
        channels_last: bool = True,
        self_ensemble: bool = False,
    ) -> None:
        if precision not in ("auto", *DTYPES):
            raise ModelError(f"precision {precision!r} is unknown; choose one of {', '.join(DTYPES)} and auto")
        if isinstance(tile, int) and tile < SMALLEST_TILE:
            raise ModelError(f"a tile of {tile} pixels is too small; choose {SMALLEST_TILE} or more")
        self.device = torch.device(pick_device(device))
        if precision == "tf32" and self.device.type != "cuda":
            raise ModelError("tf32 needs a CUDA GPU; choose fp32 on the CPU")
        network = sr_model(model)
        self.scale, self.data_range = network.scale, network.data_range
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.self_ensemble = self_ensemble
        self.tile = tile
        self._lock = threading.RLock()
        self._measured: dict[str, Any] = {}
        self._largest_tile: int | None = None
        self._float32 = reparameterize(copy.deepcopy(unwrap(model)).float()).to(self.device)
        choices = automatic_precisions(self.device) if precision == "auto" else (precision,)
        self._prepared = self._prepare(choices)
        if isinstance(tile, int) and self.radius is None:
            raise ModelError("this network looks at the image as a whole and cannot be tiled; choose tile=None")

    @property
    def model(self) -> nn.Module:
        """The network in the current precision."""
        return self._prepared.model

    @property
    def precision(self) -> str:
        """The current precision."""
        return self._prepared.precision

    @property
    def dtype(self) -> torch.dtype:
        """The type of the features."""
        return DTYPES[self.precision]

    @property
    def radius(self) -> int | None:
        """The radius of the receptive field in LR pixels; None if the network cannot be tiled."""
        return self._measure("radius", lambda: receptive_radius(self._float32))

    @property
    def bytes_per_pixel(self) -> float:
        """The memory that a forward pass needs, per LR pixel."""
        prepared = self._prepared
        return self._measure(f"bytes in {prepared.precision}", lambda: needed_bytes(prepared.model))

    def _measure(self, name: str, measurement: Callable[[], Value]) -> Value:
        """Return the result of a measurement of the network, which is made once."""
        with self._lock:
            if name not in self._measured:
                self._measured[name] = measurement()
            value: Value = self._measured[name]
            return value

    def _prepare(self, precisions: tuple[str, ...]) -> Prepared:
        """Convert a copy of the network to the first precision that it can be computed in."""
        precision, *others = precisions
        model = copy.deepcopy(self._float32)
        try:
            convert(model, precision)
        except ModelError:
            if not others:
                raise
            return self._prepare(tuple(others))
        model.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        return Prepared(model, precision, tuple(others))

    def _fall_back(self, failed: Prepared) -> Prepared:
        """Take the next precision after an output of ``failed`` that is not finite.

        Raises:
            ModelError: There is none.
        """
        with self._lock:
            if self._prepared is failed:
                if not failed.fallbacks:
                    remedy = "choose bf16 or fp32" if failed.precision == "fp16" else "check the weights"
                    raise ModelError(
                        f"this network's output in {failed.precision} is NaN or infinite on this image; {remedy}"
                    )
                self._prepared = self._prepare(failed.fallbacks)
            return self._prepared

    def __call__(self, lr: AnyImage, *, on_tile: Callable[[int, int], object] | None = None) -> AnyImage:
        """Upscale one image.

        Args:
            lr: ``(H, W, 3)`` RGB, uint8 or uint16.
            on_tile: Called after every tile with the number of finished tiles and the number of all. It starts again
                when memory runs out and the tiles become smaller.

        Raises:
            ModelError: ``lr`` has another type or shape; the output is not finite; the network cannot run on an image
                of this size; or the memory runs out.
        """
        if lr.dtype not in (np.uint8, np.uint16) or lr.ndim != 3 or lr.shape[2] != 3 or not lr.size:
            raise ModelError(f"expected a uint8 or uint16 (H, W, 3) image, got {lr.dtype} {lr.shape}")
        height, width = lr.shape[:2]
        tile = self.tile_for(height, width, lr.itemsize)
        while True:
            try:
                return self.run(lr) if tile is None else self.run_tiles(lr, tile, on_tile)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the except clause, where the traceback no longer holds the features.
            tile = self._smaller_tile(height, width, tile)

    def _smaller_tile(self, height: int, width: int, tile: int | None) -> int:
        """Return half of ``tile``, or of an untiled image, for this image and the next ones after memory has run out.

        Raises:
            ModelError: The network cannot be tiled, or the tile is the smallest one.
        """
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.radius is None:
            raise ModelError(
                f"out of memory on {width}x{height} pixels, and this network cannot be tiled; choose another network, "
                "or cut the image"
            )
        side = max(height, width) if tile is None else min(tile, max(height, width))
        if side <= SMALLEST_TILE:
            raise ModelError(f"out of memory on {width}x{height} pixels, even in tiles of {side} pixels")
        self._largest_tile = max(SMALLEST_TILE, side // 2)
        return self._largest_tile

    def run_tiles(self, lr: AnyImage, tile: int, on_tile: Callable[[int, int], object] | None = None) -> AnyImage:
        """Upscale one image in tiles of at most ``tile`` LR pixels a side."""
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

    def tile_for(self, height: int, width: int, itemsize: int = 1) -> int | None:
        """Return the side of the tiles that an LR image of this size is cut into, or None if it is not cut.

        Raises:
            ModelError: The image does not fit into memory and the network cannot be tiled.
        """
        tile = self._automatic_tile(height, width, itemsize) if self.tile == "auto" else self.tile
        if self._largest_tile is None:
            return tile
        side = min(tile or max(height, width), self._largest_tile)
        return None if tile is None and side == max(height, width) else side

    def _automatic_tile(self, height: int, width: int, itemsize: int) -> int | None:
        if height * width <= SMALL:
            return None
        needed = self.bytes_per_pixel * height * width
        result = height * width * self.scale**2 * 3 * itemsize  # in the host's memory, also of a network on a GPU
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
        """Upscale one image or tile at once."""
        height, width = lr.shape[:2]
        white = float(np.iinfo(lr.dtype).max)
        x = torch.from_numpy(np.require(lr, requirements=["C", "W"])).to(self.device).permute(2, 0, 1)[None].float()
        if self.data_range != white:
            x = x / (white / self.data_range)  # A division, as in the published code: its last bits change pixels.
        if min(height, width) < PROBE_SIDE:
            least = self._measure("smallest side", lambda: smallest_side(self._float32))
            x = F.pad(x, (0, max(0, least - width), 0, max(0, least - height)), mode="replicate")
        x = x.contiguous(memory_format=self.memory_format)
        out = self._finite_output(x)[..., : height * self.scale, : width * self.scale]
        if lr.dtype == np.uint8:
            pixels: Any = to_image(out, self.data_range)
        else:
            pixels = np.ascontiguousarray(scaled(out, self.data_range, white).cpu().numpy(), lr.dtype)
        sr: AnyImage = pixels
        return sr

    def _finite_output(self, x: Tensor) -> Tensor:
        """Run the network on ``x`` ``(1, 3, H, W)``, in a further precision if the output is not finite."""
        prepared = self._prepared
        expected = (1, 3, x.shape[2] * self.scale, x.shape[3] * self.scale)
        while True:
            with float32_mode(tf32=prepared.precision == "tf32"):
                out = self._ensemble_output(prepared.model, x) if self.self_ensemble else prepared.model(x)
            if out.shape != expected:
                raise ModelError(f"the network's output is {tuple(out.shape)} for an x{self.scale} of {tuple(x.shape)}")
            if all(extreme.isfinite() for extreme in out.aminmax()):
                return torch.as_tensor(out)
            prepared = self._fall_back(prepared)

    def _ensemble_output(self, model: nn.Module, x: Tensor) -> Tensor:
        """Return the mean of the outputs for the flips and rotations of ``x`` ``(1, 3, H, W)``, turned back."""
        total: Any = 0
        for mirrored in (False, True):
            for quarters in range(4):
                turned = torch.rot90(x.flip(3) if mirrored else x, quarters, (2, 3))
                out = model(turned.contiguous(memory_format=self.memory_format)).float()
                out = torch.rot90(out, -quarters, (2, 3))
                total = total + (out.flip(3) if mirrored else out)
        mean: Tensor = total / 8
        return mean


def to_image(out: Tensor, data_range: float) -> Image:
    """Clamp and round a network's output ``(1, 3, H, W)`` in ``[0, data_range]`` to ``uint8 (H, W, 3)``."""
    pixels: Image = scaled(out, data_range, 255.0).to(torch.uint8).contiguous().cpu().numpy()
    return pixels


def scaled(out: Tensor, data_range: float, white: float) -> Tensor:
    """Clamp and round a network's output ``(1, 3, H, W)`` to ``(H, W, 3)`` in ``[0, white]``."""
    out = out[0].float()
    if data_range != white:
        out = out * (white / data_range)
    return out.clamp_(0, white).round_().permute(1, 2, 0)


def pick_device(device: str) -> str:
    """Return the device that ``"auto"`` stands for; any other name as it is.

    Raises:
        ModelError: There is no such device.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"device {device!r} was asked for, but this PyTorch sees no CUDA GPU; choose cpu or auto")
    return device
