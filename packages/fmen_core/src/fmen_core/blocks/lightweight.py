"""Blocks with fewer parameters than a 3x3 convolution: depthwise, Ghost and self-calibrated convolution, IdleBlock.

The papers on classification put a BatchNorm behind each convolution. As usual in super-resolution, these blocks have
none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.blocks.layers import conv1x1, conv3x3


class DepthwiseSeparableConv(nn.Module):
    """A 3x3 convolution of each channel and a 1x1 convolution; ``(N, I, H, W)`` to ``(N, O, H, W)``.

    Source: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017,
    section 3.1; without the activation in between.

    Args:
        in_channels: I.
        out_channels: O.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.depthwise = conv3x3(in_channels, in_channels, groups=in_channels)
        self.pointwise = conv1x1(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Run both convolutions."""
        out: Tensor = self.pointwise(self.depthwise(x))
        return out


class GhostConv(nn.Module):
    """A 3x3 convolution to a part of the channels, from which depthwise 3x3 convolutions make the other ones.

    Maps ``(N, I, H, W)`` to ``(N, O, H, W)``. The first ``ceil(O / ratio)`` channels are the primary ones.

    Source: Han et al., "GhostNet: More Features from Cheap Operations", CVPR 2020, section 3.1.

    Args:
        in_channels: I.
        out_channels: O.
        ratio: Channels of the output for each primary channel, 2 or more.
    """

    def __init__(self, in_channels: int, out_channels: int, ratio: int = 2) -> None:
        super().__init__()
        if ratio < 2:
            raise ValueError(f"ratio is {ratio}; choose 2 or more")
        self.out_channels = out_channels
        primary = math.ceil(out_channels / ratio)
        self.primary = conv3x3(in_channels, primary)
        self.cheap = conv3x3(primary, (ratio - 1) * primary, groups=primary)

    def forward(self, x: Tensor) -> Tensor:
        """Return the primary channels and those made from them; the last ones are left out if ``ratio`` leaves some."""
        primary = self.primary(x)
        return torch.cat([primary, self.cheap(primary)], dim=1)[:, : self.out_channels]


class SelfCalibratedConv(nn.Module):
    """Self-calibrated convolution, ``(N, I, H, W)`` to ``(N, O, H, W)``.

    One half of the input is convolved. The other half, ``x``, becomes ``k4(k3(x) * sigmoid(x + up(k2(pool(x)))))``.

    Source: Liu et al., "Improving Convolutional Networks with Self-Calibrated Convolutions", CVPR 2020, equations 2
    to 5.

    Args:
        in_channels: I, an even number.
        out_channels: O, an even number.
        pooling: Pixels per side of the average pooling; the windows at the right and bottom may be smaller.
    """

    def __init__(self, in_channels: int, out_channels: int, pooling: int = 4) -> None:
        super().__init__()
        if in_channels % 2 or out_channels % 2:
            raise ValueError(f"a self-calibrated convolution has even channels, not {in_channels} and {out_channels}")
        inputs, outputs = in_channels // 2, out_channels // 2
        self.pooling = pooling
        self.k1 = conv3x3(inputs, outputs)
        self.k2 = conv3x3(inputs, inputs)
        self.k3 = conv3x3(inputs, inputs)
        self.k4 = conv3x3(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the calibrated and the convolved half."""
        calibrated, convolved = x.chunk(2, dim=1)
        coarse = self.k2(F.avg_pool2d(calibrated, self.pooling, ceil_mode=True))
        context = F.interpolate(coarse, x.shape[-2:], mode="bilinear", align_corners=False)
        calibrated = self.k4(self.k3(calibrated) * torch.sigmoid(calibrated + context))
        return torch.cat([calibrated, self.k1(convolved)], dim=1)


class InvertedResidual(nn.Module):
    """Inverted residual: 1x1 convolution to more channels, depthwise 3x3, and 1x1 back; with a shortcut.

    Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, section 3.

    Args:
        channels: C; the block maps ``(N, C, H, W)`` to the same shape.
        ratio: Channels in between, as a multiple of ``channels``.
    """

    def __init__(self, channels: int, ratio: int = 6) -> None:
        super().__init__()
        wide = ratio * channels
        self.expand = conv1x1(channels, wide)
        self.depthwise = conv3x3(wide, wide, groups=wide)
        self.project = conv1x1(wide, channels)
        self.act = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        out: Tensor = x + self.project(self.act(self.depthwise(self.act(self.expand(x)))))
        return out


class IdleBlock(nn.Module):
    """An inverted residual of a part of the channels; the others, idle, are passed on unchanged.

    Blocks with the idle channels at either end alternate in a network: otherwise, the same channels pass all blocks
    unchanged.

    Source: Xu et al., "Hybrid Composition with IdleBlock: More Efficient Networks for Image Recognition", 2019,
    section 3.

    Args:
        channels: C; the block maps ``(N, C, H, W)`` to the same shape.
        idle: Share of the idle channels, above 0 and below 1.
        first: Whether the first channels are idle; otherwise the last ones.
        ratio: As for :class:`InvertedResidual`.
    """

    def __init__(self, channels: int, idle: float = 0.5, *, first: bool = False, ratio: int = 6) -> None:
        super().__init__()
        passed = round(channels * idle)
        if not 0 < passed < channels:
            raise ValueError(f"idle is {idle:g}: {passed} of {channels} channels are idle; choose another share")
        self.first = first
        self.low = passed if first else channels - passed
        self.active = InvertedResidual(channels - passed, ratio)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        low, high = x[:, : self.low], x[:, self.low :]
        return torch.cat([low, self.active(high)] if self.first else [self.active(low), high], dim=1)


CONVS: Mapping[str, Callable[[int, int], nn.Module]] = {
    "conv": conv3x3,
    "ghost": GhostConv,
    "separable": DepthwiseSeparableConv,
    "self-calibrated": SelfCalibratedConv,
}
"""What a 3x3 convolution can be replaced by, by name; made from the numbers of input and output channels."""
