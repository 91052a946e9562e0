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


def to_image(out: Tensor, data_range: float, dtype: Any = np.uint8) -> Any:
    """Clamp and round a network's output ``(1, 3, H, W)`` in ``[0, data_range]`` to uint8 or uint16 ``(H, W, 3)``."""
    white = float(np.iinfo(dtype).max)
    out = out[0].float()
    if data_range != white:
        out = out * (white / data_range)
    out = out.clamp_(0, white).round_().permute(1, 2, 0)
    if dtype == np.uint8:
        return out.to(torch.uint8).contiguous().cpu().numpy()
    return np.ascontiguousarray(out.cpu().numpy(), dtype)
