"""Networks that upscale luma alone, as before 2018, and bicubic interpolation for what they leave."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.architecture import StateDict

TO_YCBCR = (
    (65.481 / 255, 128.553 / 255, 24.966 / 255),
    (-37.797 / 255, -74.203 / 255, 112.0 / 255),
    (112.0 / 255, -93.786 / 255, -18.214 / 255),
)
"""Matrix of BT.601 from RGB to luma and chroma, both in ``[0, 1]``, without the offsets."""

TO_RGB: list[list[float]] = torch.linalg.inv(torch.tensor(TO_YCBCR, dtype=torch.float64)).tolist()
"""The inverse matrix."""

BLACK = 16 / 255
"""Luma of black."""


class Bicubic(nn.Module):
    """Enlarge by an integer factor with the kernel of MATLAB's ``imresize`` (a = -0.5).

    The weights are a buffer of the state dict, from which the scale of a network without other traces of it is read.
    They are applied by sums instead of convolutions, which reduced precisions would count as the network's first. The
    border is replicated, where MATLAB mirrors it.

    Args:
        scale: Upscaling factor.
        persistent: Whether the weights are part of the state dict.
    """

    def __init__(self, scale: int, *, persistent: bool = True) -> None:
        super().__init__()
        phases = (torch.arange(float(scale)) + 0.5) / scale - 0.5
        distance = (phases[:, None] - torch.arange(-2.0, 3.0)).abs()
        near = 1.5 * distance**3 - 2.5 * distance**2 + 1
        far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
        self.weights: Tensor
        weights = torch.where(distance <= 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))
        self.register_buffer("weights", weights, persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge ``(N, C, H, W)`` to ``(N, C, scale*H, scale*W)``."""
        return self.lengthened(self.lengthened(x).transpose(2, 3)).transpose(2, 3)

    def lengthened(self, x: Tensor) -> Tensor:
        """Enlarge the height."""
        height = x.shape[2]
        padded = F.pad(x, (0, 0, 2, 2), mode="replicate")
        rows = [torch.zeros_like(x) for _ in self.weights]
        for phase, weights in enumerate(self.weights):
            for tap in range(5):
                rows[phase] = rows[phase] + weights[tap] * padded[:, :, tap : tap + height]
        return torch.stack(rows, dim=3).flatten(2, 3)


class LumaNetwork(nn.Module):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    Luma is upscaled by :meth:`upscale`, chroma by bicubic interpolation, as in the papers of these networks.

    Args:
        scale: Upscaling factor.
    """

    data_range = 1.0

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.bicubic = Bicubic(scale)

    def upscale(self, luma: Tensor) -> Tensor:
        """Map luma ``(N, 1, H, W)`` in ``[0, 1]``, black at 16 / 255, to ``(N, 1, scale*H, scale*W)``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        ycbcr = mixed(x, TO_YCBCR)
        luma = self.upscale(ycbcr[:, :1] + BLACK) - BLACK
        return mixed(torch.cat([luma, self.bicubic(ycbcr[:, 1:])], dim=1), TO_RGB)


def mixed(x: Tensor, matrix: Sequence[Sequence[float]]) -> Tensor:
    """Multiply the three channels of ``(N, 3, H, W)`` by a 3x3 matrix."""
    first, second, third = torch.split(x, 1, dim=1)
    return torch.cat([row[0] * first + row[1] * second + row[2] * third for row in matrix], dim=1)


def bicubic_scale(state: StateDict) -> int | None:
    """Return the scale of a :class:`LumaNetwork` with this state dict, or None if it is of another network."""
    weights = state.get("bicubic.weights")
    return len(weights) if weights is not None and weights.dim() else None
