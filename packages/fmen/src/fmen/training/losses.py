"""Loss functions of float images ``(N, 3, H, W)`` in [0, 255]."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]

CHARBONNIER_EPS = 1e-3 * 255
"""The usual 1e-3 for images in [0, 1], in gray levels."""
PSNR_EPS = 20.0
"""Mean squared error added in ``negative_psnr``, so that flat patches do not outweigh the others."""


def charbonnier(sr: Tensor, hr: Tensor) -> Tensor:
    """Return the mean of ``sqrt((sr - hr)^2 + eps^2)`` (Lai et al., LapSRN, 2017)."""
    return torch.sqrt((sr - hr).square() + CHARBONNIER_EPS**2).mean()


def frequency(sr: Tensor, hr: Tensor) -> Tensor:
    """Return the mean absolute difference of the real and imaginary parts of the 2-D Fourier transforms.

    The transform is not normalized, so its values grow with the side of the patches; the usual weight beside L1 is 0.05
    or 0.1 (Cho et al., MIMO-UNet, 2021).
    """
    return torch.view_as_real(torch.fft.fft2(sr - hr)).abs().mean()


def negative_psnr(sr: Tensor, hr: Tensor) -> Tensor:
    """Return the mean over the images of 48.13 dB minus their PSNR, with ``PSNR_EPS`` added to the mean squared error.

    The loss of HINet (Chen et al., 2021), which weights an image by the inverse of its error, as a benchmark does.
    48.13 dB is the PSNR of a mean squared error of 1; without it the loss would be negative, which the logarithmic
    axis of its curve cannot show.
    """
    return 10 * torch.log10((sr - hr).square().mean((1, 2, 3)) + PSNR_EPS).mean()


LOSSES: dict[str, Loss] = {
    "l1": F.l1_loss,
    "l2": F.mse_loss,
    "charbonnier": charbonnier,
    "fft": frequency,
    "psnr": negative_psnr,
}
"""Loss functions by their names in a recipe. Each returns a scalar."""


def weighted_loss(weights: Mapping[str, float], sr: Tensor, hr: Tensor) -> Tensor:
    """Return the sum of loss functions.

    Args:
        weights: Factors by the names of loss functions, at least one.
        sr: Output of the network.
        hr: Target.
    """
    parts = [weight * LOSSES[name](sr, hr) for name, weight in weights.items()]
    return torch.stack(parts).sum() if len(parts) > 1 else parts[0]
