"""MSRResNet, the baseline of the AIM challenges on efficient super-resolution in 2019 and 2020.

SRResNet (Ledig et al., CVPR 2017) without BatchNorm, as Wang et al. modified it for "ESRGAN", ECCV Workshops 2018. The
names of the parameters are those of the organisers' code.

The trunk can also be made of the blocks that participants of the challenge used instead of 3x3 convolutions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, count, out_channels
from fmen_core.blocks.layers import conv3x3
from fmen_core.blocks.lightweight import CONVS, IdleBlock, InvertedResidual

MARKS = {
    "conv": "conv1.weight",
    "ghost": "conv1.cheap.weight",
    "separable": "conv1.pointwise.weight",
    "self-calibrated": "conv1.k4.weight",
    "inverted": "project.weight",
    "idle": "active.project.weight",
}
"""For each block of the trunk, a weight that the others do not have."""


class ResidualBlock(nn.Module):
    """Two convolutions with a ReLU in between and a shortcut around them; ``(N, C, H, W)`` to the same shape.

    Args:
        n_feats: C.
        conv: Makes the convolutions from the numbers of input and output channels.
    """

    def __init__(self, n_feats: int, conv: Callable[[int, int], nn.Module] = conv3x3) -> None:
        super().__init__()
        self.conv1 = conv(n_feats, n_feats)
        self.conv2 = conv(n_feats, n_feats)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        out: Tensor = x + self.conv2(F.relu(self.conv1(x), inplace=True))
        return out


def trunk_block(kind: str, n_feats: int, index: int) -> nn.Module:
    """Return a block of the trunk.

    Args:
        kind: The block's name.
        n_feats: Channels of the features.
        index: Position in the trunk; every second IdleBlock has its idle channels first.

    Raises:
        ValueError: There is no such block, or not with this number of channels.
    """
    if kind in CONVS:
        return ResidualBlock(n_feats, CONVS[kind])
    if kind == "inverted":
        return InvertedResidual(n_feats)
    if kind == "idle":
        return IdleBlock(n_feats, first=index % 2 == 1)
    raise ValueError(f"there is no block {kind!r}; choose one of {', '.join(MARKS)}")


class MSRResNet(nn.Module):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    Args:
        scale: Upscaling factor: 2, 3 or 4.
        n_feats: Channels of the features.
        n_blocks: Blocks of the trunk.
        block: What the trunk consists of. ``"conv"``, as published, ``"ghost"``, ``"separable"`` and
            ``"self-calibrated"`` are the convolutions of its residual blocks. ``"inverted"`` and ``"idle"`` are
            inverted residuals and IdleBlocks in place of the residual blocks.
    """

    name = "msrresnet"
    data_range = 1.0

    def __init__(self, scale: int = 4, n_feats: int = 64, n_blocks: int = 16, block: str = "conv") -> None:
        super().__init__()
        self.scale = scale
        self.conv_first = conv3x3(3, n_feats)
        self.recon_trunk = nn.Sequential(*(trunk_block(block, n_feats, index) for index in range(n_blocks)))
        factor = 2 if scale == 4 else scale
        self.upconv1 = conv3x3(n_feats, n_feats * factor**2)
        if scale == 4:
            self.upconv2 = conv3x3(n_feats, n_feats * factor**2)
        self.pixel_shuffle = nn.PixelShuffle(factor)
        self.HRconv = conv3x3(n_feats, n_feats)
        self.conv_last = conv3x3(n_feats, 3)
        self.lrelu = nn.LeakyReLU(negative_slope=0.1, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        features = self.recon_trunk(self.lrelu(self.conv_first(x)))
        features = self.lrelu(self.pixel_shuffle(self.upconv1(features)))
        if self.scale == 4:
            features = self.lrelu(self.pixel_shuffle(self.upconv2(features)))
        out: Tensor = self.conv_last(self.lrelu(self.HRconv(features)))
        return out + F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False)


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the names and shapes in a state dict; None stands for an absent tensor."""
    block = next((kind for kind, mark in MARKS.items() if f"recon_trunk.0.{mark}" in state), None)
    n_feats, first = out_channels(state, "conv_first.weight"), out_channels(state, "upconv1.weight")
    factor = math.isqrt(first // n_feats) if first and n_feats else None
    return {
        "scale": 4 if "upconv2.weight" in state else factor,
        "n_feats": n_feats,
        "n_blocks": count(state, rf"recon_trunk\.\d+\.{re.escape(MARKS[block])}") if block else None,
        "block": block,
    }


ARCHITECTURE = Architecture(
    name=MSRResNet.name,
    title="MSRResNet",
    paper="Ledig et al., CVPR 2017, modified by Wang et al., 2018; baseline of AIM 2019 and 2020",
    data_range=MSRResNet.data_range,
    scales=(2, 3, 4),
    inference=MSRResNet,
    read_sizes=read_sizes,
)
