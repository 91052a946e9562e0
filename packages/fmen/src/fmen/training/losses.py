"""Loss functions of float images ``(N, 3, H, W)`` in [0, 255]."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]

CHARBONNIER_EPS = 1e-3 * 255
"""The usual 1e-3 for images in [0, 1], in gray levels."""


def charbonnier(sr: Tensor, hr: Tensor) -> Tensor:
    """Return the mean of ``sqrt((sr - hr)^2 + eps^2)`` (Lai et al., LapSRN, 2017)."""
    return torch.sqrt((sr - hr).square() + CHARBONNIER_EPS**2).mean()


LOSSES: dict[str, Loss] = {"l1": F.l1_loss, "l2": F.mse_loss, "charbonnier": charbonnier}
"""Loss functions by their names in a recipe. Each returns a scalar."""
