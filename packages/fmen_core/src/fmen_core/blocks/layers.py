"""Layers that several networks share: convolutions, a shortcut, the upsampling tail."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from fmen_core.fmen_deploy import conv3x3 as conv3x3  # defined there, since that file imports torch alone

Kernel = tuple[Tensor, Tensor]
"""The weight ``(O, I, kh, kw)`` and the bias ``(O,)`` of a convolution."""


def conv1x1(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Return a 1x1 convolution."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=1)


def kernel_of(conv: nn.Module, dtype: torch.dtype | None = None) -> Kernel:
    """Return weight and bias of a convolution, converted to ``dtype`` if given."""
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    return conv.weight.to(dtype or conv.weight.dtype), conv.bias.to(dtype or conv.bias.dtype)


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which operations on tensors like ``x`` keep the precision of their operands."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def leaky_relu() -> nn.LeakyReLU:
    """Return the activation of the IMDN family, slope 0.05. The challenge's FLOPs rule counts modules only."""
    return nn.LeakyReLU(negative_slope=0.05, inplace=True)


def named(name: str, module: nn.Module) -> nn.Sequential:
    """Nest ``module`` under ``name``, for published key names with one more level: ``named("eval_conv", conv)``."""
    return nn.Sequential(OrderedDict([(name, module)]))


def pixel_shuffle_tail(n_feats: int, scale: int) -> nn.Sequential:
    """Return a sub-pixel convolution (Shi et al. 2016), ``(N, n_feats, H, W)`` to ``(N, 3, scale*H, scale*W)``."""
    return nn.Sequential(conv3x3(n_feats, 3 * scale**2), nn.PixelShuffle(scale))


class Shortcut(nn.Module):
    """``x + sub(x)``."""

    def __init__(self, sub: nn.Module) -> None:
        super().__init__()
        self.sub = sub

    def forward(self, x: Tensor) -> Tensor:
        """Add ``sub``'s output to its input, which has the same shape."""
        out: Tensor = x + self.sub(x)
        return out
