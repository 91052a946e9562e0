"""Convert between images and what networks take and return."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Image = npt.NDArray[np.uint8]
AnyImage = TypeVar("AnyImage", npt.NDArray[np.uint8], npt.NDArray[np.uint16])


def to_input(lr: AnyImage, data_range: float, device: torch.device) -> Tensor:
    """Convert an image ``(H, W, 3)`` to a network's input ``(1, 3, H, W)`` in ``[0, data_range]``."""
    white = float(np.iinfo(lr.dtype).max)
    x = torch.from_numpy(np.require(lr, requirements=["C", "W"])).to(device).permute(2, 0, 1)[None].float()
    # A division, as in the published code: its last bits change pixels.
    return x if data_range == white else x / (white / data_range)


def is_finite(out: Tensor) -> bool:
    """Return whether no value of ``out`` is NaN or infinite."""
    return all(bool(extreme.isfinite()) for extreme in out.aminmax())


def to_levels(out: Tensor, data_range: float, dtype: Any = np.uint8) -> Tensor:
    """Clamp and round values in ``[0, data_range]``, in place where possible, to uint8 or to the integers of uint16."""
    white = float(np.iinfo(dtype).max)
    out = out.float()
    if data_range != white:
        out = out * (white / data_range)
    out = out.clamp_(0, white).round_()
    return out.to(torch.uint8) if dtype == np.uint8 else out


def from_levels(levels: Tensor, dtype: Any = np.uint8) -> Any:
    """Convert what ``to_levels`` returns, ``(1, 3, H, W)``, to an image ``(H, W, 3)``."""
    return np.ascontiguousarray(levels[0].permute(1, 2, 0).contiguous().cpu().numpy(), dtype)


def to_image(out: Tensor, data_range: float, dtype: Any = np.uint8) -> Any:
    """Clamp and round a network's output ``(1, 3, H, W)`` in ``[0, data_range]`` to uint8 or uint16 ``(H, W, 3)``."""
    return from_levels(to_levels(out, data_range, dtype), dtype)
