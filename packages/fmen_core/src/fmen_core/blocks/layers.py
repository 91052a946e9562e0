"""Parts that the networks of the zoo have in common: convolutions, a shortcut, the upsampling tail."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps height and width (zero padding)."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)


def conv1x1(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 1x1 convolution."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=1)


def leaky_relu() -> nn.LeakyReLU:
    """The activation of the IMDN family, slope 0.05. A module, for the challenge's FLOPs rule counts modules alone."""
    return nn.LeakyReLU(negative_slope=0.05, inplace=True)


def named(name: str, module: nn.Module) -> nn.Sequential:
    """The module under a further level of key names, where a published file has one: ``named("eval_conv", conv)``."""
    return nn.Sequential(OrderedDict([(name, module)]))


def pixel_shuffle_tail(n_feats: int, scale: int) -> nn.Sequential:
    """Sub-pixel convolution (Shi et al., CVPR 2016): ``(N, n_feats, H, W)`` to RGB ``(N, 3, scale*H, scale*W)``."""
    return nn.Sequential(conv3x3(n_feats, 3 * scale**2), nn.PixelShuffle(scale))


class Shortcut(nn.Module):
    """``x + sub(x)``."""

    def __init__(self, sub: nn.Module) -> None:
        super().__init__()
        self.sub = sub

    def forward(self, x: Tensor) -> Tensor:
        """Same shape in and out."""
        out: Tensor = x + self.sub(x)
        return out
