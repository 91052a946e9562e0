"""Convert between images and what networks take and return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Image = npt.NDArray[np.uint8]
AnyImage = TypeVar("AnyImage", npt.NDArray[np.uint8], npt.NDArray[np.uint16])


def to_input(lr: AnyImage, data_range: float, upload: Callable[[Tensor], Tensor]) -> Tensor:
    """Convert an image ``(H, W, 3)`` to a network's input ``(1, 3, H, W)`` in ``[0, data_range]``, on a device."""
    white = float(np.iinfo(lr.dtype).max)
    # PyTorch takes no negative strides, and np.require keeps those of an array with a single row or none.
    lr = lr.copy() if min(lr.strides) < 0 else np.require(lr, requirements=["C", "W"])
    x = upload(torch.from_numpy(lr)).permute(2, 0, 1)[None].float()
    # A division, as in the published code: its last bits change pixels.
    return x if data_range == white else x / (white / data_range)


def is_finite(out: Tensor) -> Tensor:
    """Return whether no value of ``out`` is NaN or infinite, on its device."""
    # Not aminmax, which copies a tensor in channels-last memory.
    return torch.stack((out.amin(), out.amax())).isfinite().all()


def to_levels(out: Tensor, data_range: float, dtype: Any = np.uint8) -> Tensor:
    """Clamp and round values in ``[0, data_range]`` to uint8 or to the integers of uint16, in a new tensor.

    ``data_range`` is 1 or 255, so that values for uint16 are multiplied.
    """
    white = float(np.iinfo(dtype).max)
    out = out.float()
    if data_range != white:
        out = out * (white / data_range)
    out = out.clamp_(0, white).round_()
    return out.to(torch.uint8) if dtype == np.uint8 else out


def interleave(levels: Tensor) -> Tensor:
    """Return ``(1, 3, H, W)`` as ``(H, W, 3)`` in contiguous memory."""
    return levels[0].permute(1, 2, 0).contiguous()


def to_image(out: Tensor, data_range: float, dtype: Any = np.uint8) -> Any:
    """Clamp and round a network's output ``(1, 3, H, W)`` in ``[0, data_range]`` to uint8 or uint16 ``(H, W, 3)``."""
    return np.ascontiguousarray(interleave(to_levels(out, data_range, dtype)).cpu().numpy(), dtype)
