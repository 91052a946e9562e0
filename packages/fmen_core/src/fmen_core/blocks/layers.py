"""Layers that several networks share: convolutions, a shortcut, the upsampling tail."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

Kernel = tuple[Tensor, Tensor]
"""The weight ``(O, I, kh, kw)`` and the bias ``(O,)`` of a convolution."""


def conv3x3(in_channels: int, out_channels: int, *, bias: bool = True, groups: int = 1) -> nn.Conv2d:
    """Return a zero-padded 3x3 convolution; height and width are unchanged."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=bias, groups=groups)


def conv1x1(in_channels: int, out_channels: int, *, bias: bool = True) -> nn.Conv2d:
    """Return a 1x1 convolution."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=bias)


def kernel_of(conv: nn.Module, dtype: torch.dtype | None = None) -> Kernel:
    """Return weight and bias of a convolution, converted to ``dtype`` if given."""
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    return conv.weight.to(dtype or conv.weight.dtype), conv.bias.to(dtype or conv.bias.dtype)


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which operations on tensors like ``x`` have the precision of their operands."""
    # Not torch.amp.is_autocast_available, which breaks the graph of torch.compile before PyTorch 2.13.
    device = x.device.type
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)


def leaky_relu() -> nn.LeakyReLU:
    """Return the activation of the IMDN family, slope 0.05. The challenge's FLOPs rule counts modules only."""
    return nn.LeakyReLU(negative_slope=0.05, inplace=True)


def named(**modules: nn.Module) -> nn.Sequential:
    """Return the modules in sequence, under published key names: ``named(eval_conv=conv)``."""
    return nn.Sequential(OrderedDict(modules))


def pixel_shuffle_tail(n_feats: int, scale: int, *, bias: bool = True) -> nn.Sequential:
    """Return a sub-pixel convolution (Shi et al. 2016), ``(N, n_feats, H, W)`` to ``(N, 3, scale*H, scale*W)``."""
    return nn.Sequential(conv3x3(n_feats, 3 * scale**2, bias=bias), nn.PixelShuffle(scale))


def nearest_conv(scale: int) -> nn.Conv2d:
    """Return a grouped convolution from RGB to ``3 * scale**2`` channels, initialised to copy the centre pixel.

    With a pixel shuffle, it is nearest-neighbour upsampling until it is trained.
    """
    conv = conv3x3(3, 3 * scale**2, bias=False, groups=3)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[:, :, 1, 1] = 1.0
    return conv


class Shortcut(nn.Module):
    """``x + sub(x)``."""

    def __init__(self, sub: nn.Module) -> None:
        super().__init__()
        self.sub = sub

    def forward(self, x: Tensor) -> Tensor:
        """Add ``sub``'s output to its input, which has the same shape."""
        out: Tensor = x + self.sub(x)
        return out


def preactivated(conv: nn.Conv2d) -> nn.Sequential:
    """Return BatchNorm, ReLU and ``conv``, in this order."""
    return named(norm=nn.BatchNorm2d(conv.in_channels), act=nn.ReLU(), conv=conv)


def upscaling_convs(n_feats: int, scale: int) -> nn.Sequential:
    """Return sub-pixel convolutions that keep the channels: one for x2 and x3, two of x2 for x4."""
    factors = (2, 2) if scale == 4 else (scale,)
    layers = [(conv3x3(n_feats, n_feats * factor**2), nn.PixelShuffle(factor)) for factor in factors]
    return nn.Sequential(*(module for pair in layers for module in pair))
