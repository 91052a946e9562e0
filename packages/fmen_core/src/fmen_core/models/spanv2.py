"""SPANV2, the winner of the NTIRE 2026 challenge on efficient super-resolution (team 22).

SPAN's blocks (Wan et al., CVPR Workshops 2024) with ReLU, and an attention map that a 1x1 convolution computes. The
challenge's report is "The Eleventh NTIRE 2026 Efficient Super-Resolution Challenge Report", arXiv:2604.03198.

The authors run the 1x1 convolution and the product after it as one CUDA operator, which counters of FLOPs do not see.
Here both are plain PyTorch: the same function, and the convolutions are counted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, out_channels, shuffle_scale
from fmen_core.blocks.layers import conv1x1, conv3x3, named, nearest_conv


def conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return a 3x3 convolution without bias under the published key name."""
    return named(conv=conv3x3(in_channels, out_channels, bias=False))


class FirstBlock(nn.Module):
    """Three convolutions with ReLU, from the image to the features."""

    def __init__(self, in_channels: int, n_feats: int) -> None:
        super().__init__()
        self.c1 = conv(in_channels, n_feats)
        self.c2 = conv(n_feats, n_feats)
        self.c3 = conv(n_feats, n_feats)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Compute features ``(N, n_feats, H, W)`` from ``(N, in_channels, H, W)``."""
        first = self.act(self.c1(x))
        second = self.act(self.c2(first))
        out: Tensor = self.act(self.c3(second))
        return out


class Block(FirstBlock):
    """Three convolutions and a shortcut, multiplied by the attention map that a 1x1 convolution computes."""

    def __init__(self, n_feats: int) -> None:
        super().__init__(n_feats, n_feats)
        self.guidance_map_conv = conv1x1(n_feats, n_feats)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``(N, n_feats, H, W)``; the output has the same shape."""
        first = self.act(self.c1(x))
        second = self.act(self.c2(first))
        third = self.c3(second)
        guidance = self.guidance_map_conv(third)
        out: Tensor = (x + third) * guidance
        return out


class SPANV2(nn.Module):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)``.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
    """

    name = "spanv2"
    data_range = 1.0

    def __init__(self, scale: int = 4, n_feats: int = 32) -> None:
        super().__init__()
        self.scale = scale
        joined = 3 * scale**2 + n_feats
        self.block_1 = FirstBlock(3, n_feats)
        self.block_2 = Block(n_feats)
        self.block_3 = Block(n_feats)
        self.block_4 = Block(n_feats)
        self.block_5 = Block(n_feats)
        self.conv_near = nearest_conv(scale)
        self.depthwise_conv = conv3x3(joined, joined, bias=False, groups=joined)
        self.pointwise_conv = conv1x1(joined, 3 * scale**2, bias=False)
        self.depth_to_space = nn.PixelShuffle(scale)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        near = self.conv_near(x)
        # All features stay referenced, as in the published code, whose peak memory is measured.
        features = [self.block_1(x)]
        for block in (self.block_2, self.block_3, self.block_4, self.block_5):
            features.append(block(features[-1]))
        joined = torch.cat([near, features[-1]], dim=1)
        out: Tensor = self.depth_to_space(self.pointwise_conv(self.depthwise_conv(joined)))
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    return {
        "scale": shuffle_scale(state, "pointwise_conv.weight"),
        "n_feats": out_channels(state, "block_1.c1.conv.weight"),
    }


ARCHITECTURE = Architecture(
    name=SPANV2.name,
    title="SPANV2",
    paper="NTIRE 2026, team 22, winner; after Wan et al., CVPR Workshops 2024",
    data_range=SPANV2.data_range,
    scales=(2, 3, 4),
    inference=SPANV2,
    read_sizes=read_sizes,
)
