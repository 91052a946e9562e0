"""Run a network on images of any size, in any precision, whole or in tiles that meet without a seam."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fmen_core.architecture import scale_and_range
from fmen_core.reparam import reparameterize
from fmen_core.zoo.attention import SpatialGate

Image = npt.NDArray[np.uint8]
Precision = Literal["fp32", "bf16", "fp16"]

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Upscaler:
    """A network as a function from image to image: ``uint8 (H, W, 3) RGB`` to ``uint8 (scale*H, scale*W, 3) RGB``.

    Args:
        model: Any network of this package; a training form is re-parameterized first. The model itself is not changed.
        device: ``"auto"`` takes CUDA where there is one.
        precision: The arithmetic of the convolutions: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        tile: Side of the LR tiles that the image is cut into, or None for the whole image at once. Each tile is read
            with a margin as wide as the network can see, so that the result is that of the whole image, up to the
            rounding of sums that PyTorch forms in another order.

    Raises:
        ValueError: The precision or the tile is none of those above, or the network looks at the whole image at once
            and cannot be tiled.
    """

    def __init__(
        self, model: nn.Module, *, device: str = "auto", precision: Precision = "fp32", tile: int | None = None
    ) -> None:
        if precision not in DTYPES:
            raise ValueError(f"precision {precision!r} is unknown; choose one of {', '.join(DTYPES)}")
        if tile is not None and tile < 16:
            raise ValueError(f"a tile of {tile} pixels is too small; choose 16 or more")
        self.device = torch.device(pick_device(device))
        self.dtype = DTYPES[precision]
        self.model = reparameterize(model).to(device=self.device, dtype=self.dtype)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.scale, self.data_range = scale_and_range(model)
        self.tile = tile
        self.margin = 0
        if tile is not None:
            margin = receptive_radius(model)
            if margin is None:
                raise ValueError("this network samples or averages the image as a whole and cannot be tiled: tile=None")
            self.margin = margin

    def __call__(self, lr: Image) -> Image:
        """Upscale one image."""
        if lr.dtype != np.uint8 or lr.ndim != 3 or lr.shape[2] != 3:
            raise ValueError(f"expected a uint8 (H, W, 3) image, got {lr.dtype} {lr.shape}")
        height, width = lr.shape[:2]
        if self.tile is None:
            return self.run(lr)
        sr = np.empty((height * self.scale, width * self.scale, 3), np.uint8)
        for top in range(0, height, self.tile):
            for left in range(0, width, self.tile):
                self.run_tile(lr, sr, top, left, self.tile)
        return sr

    def run_tile(self, lr: Image, sr: Image, top: int, left: int, tile: int) -> None:
        """Upscale the tile at ``(top, left)`` with its margin and write it into its place in ``sr``."""
        bottom, right = min(top + tile, lr.shape[0]), min(left + tile, lr.shape[1])
        first_row, first_column = max(0, top - self.margin), max(0, left - self.margin)
        out = self.run(lr[first_row : bottom + self.margin, first_column : right + self.margin])
        scale, row, column = self.scale, (top - first_row) * self.scale, (left - first_column) * self.scale
        rows, columns = (bottom - top) * scale, (right - left) * scale
        target = sr[top * scale : bottom * scale, left * scale : right * scale]
        target[:] = out[row : row + rows, column : column + columns]

    @torch.inference_mode()
    def run(self, lr: Image) -> Image:
        """One forward pass over a whole image or tile."""
        x = torch.from_numpy(np.ascontiguousarray(lr)).to(self.device).permute(2, 0, 1)[None]
        x = x.to(self.dtype, memory_format=torch.channels_last)
        if self.data_range != 255:
            x = x * (self.data_range / 255)
        return to_image(self.model(x), self.data_range)


def to_image(out: Tensor, data_range: float) -> Image:
    """A network's output ``(1, 3, H, W)`` in ``[0, data_range]``, clamped and rounded, as ``uint8 (H, W, 3)``."""
    out = out[0].float()
    if data_range != 255:
        out = out * (255 / data_range)
    pixels: Image = out.clamp_(0, 255).round_().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
    return pixels


def pick_device(device: str) -> str:
    """The device that ``"auto"`` stands for; any other name as it is.

    Raises:
        ValueError: The device is not there.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, but this PyTorch sees no CUDA GPU; choose cpu or auto")
    return device


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
    x = torch.zeros(1, 3, side, side)
    x[..., side // 2, side // 2] = torch.nan
    scale, _ = scale_and_range(network)
    touched = network(x).isnan().any(1)[0]
    rows = touched.any(1).nonzero().flatten() // scale
    columns = touched.any(0).nonzero().flatten() // scale
    reach = torch.cat([rows - side // 2, columns - side // 2]).abs().max().item()
    return None if reach > limit else int(reach)
