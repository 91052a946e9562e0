"""SAFMNv3 of the NTIRE 2025 challenge on efficient super-resolution (team 19).

A simplified spatially-adaptive feature modulation network, after Sun et al., "Spatially-Adaptive Feature Modulation for
Efficient Image Super-Resolution", ICCV 2023. The challenge's report is Ren et al., "The Tenth NTIRE 2025 Efficient
Super-Resolution Challenge Report", CVPR Workshops 2025. No convolution has a bias.

The released weights suit photographs only: on white noise the features grow until float32 overflows and the output is
NaN, as in the authors' code.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, count, out_channels, shuffle_scale
from fmen_core.blocks.attention import resize_like
from fmen_core.blocks.layers import conv1x1, conv3x3, pixel_shuffle_tail

POOLING = 8
"""Ratio of the side of the features to the side of the map that modulates them."""


class FeatureModulation(nn.Module):
    """Spatially-adaptive feature modulation of some channels, beside a 3x3 convolution of the others.

    The modulation is computed from the maximum of each 8x8 cell and from the variance over the whole image.
    """

    def __init__(self, n_feats: int, split_feats: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(n_feats, split_feats, bias=False)
        self.conv2 = conv3x3(n_feats, n_feats - split_feats, bias=False)
        self.conv3 = conv1x1(split_feats, split_feats, bias=False)
        self.dwconv = conv3x3(split_feats, split_feats, bias=False, groups=split_feats)
        self.out = conv1x1(n_feats, n_feats, bias=False)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``(N, n_feats, H, W)``, H and W at least 8; the output has the same shape."""
        height, width = x.shape[-2:]
        modulated = self.conv1(x)
        local = self.conv2(x)
        small = self.dwconv(F.adaptive_max_pool2d(modulated, (height // POOLING, width // POOLING)))
        small = self.conv3(small + torch.var(modulated, dim=(-2, -1), keepdim=True))
        modulated = self.act(resize_like(small, modulated)) * modulated
        out: Tensor = self.out(self.act(torch.cat([local, modulated], dim=1)))
        return out


class FeedForward(nn.Module):
    """A 1x1 convolution, GELU, and a 1x1 convolution."""

    def __init__(self, n_feats: int, hidden_feats: int) -> None:
        super().__init__()
        self.conv1 = conv1x1(n_feats, hidden_feats, bias=False)
        self.conv2 = conv1x1(hidden_feats, n_feats, bias=False)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``(N, n_feats, H, W)``; the output has the same shape."""
        out: Tensor = self.conv2(self.act(self.conv1(x)))
        return out


class Block(nn.Module):
    """Feature modulation, then the feed-forward layers, and one shortcut around both."""

    def __init__(self, n_feats: int, split_feats: int, hidden_feats: int) -> None:
        super().__init__()
        self.conv1 = FeatureModulation(n_feats, split_feats)
        self.conv2 = FeedForward(n_feats, hidden_feats)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``(N, n_feats, H, W)``; the output has the same shape."""
        out: Tensor = self.conv2(self.conv1(x)) + x
        return out


class SAFMNv3(nn.Module):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)``; H and W at least 8.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
        n_blocks: Number of blocks.
        split_feats: Channels that are modulated.
        hidden_feats: Channels inside the feed-forward layers.
    """

    name = "safmnv3"
    data_range = 1.0

    def __init__(
        self, scale: int = 4, n_feats: int = 40, n_blocks: int = 6, *, split_feats: int = 12, hidden_feats: int = 60
    ) -> None:
        super().__init__()
        self.scale = scale
        self.to_feat = conv3x3(3, n_feats, bias=False)
        self.feats = nn.Sequential(*(Block(n_feats, split_feats, hidden_feats) for _ in range(n_blocks)))
        self.to_img = pixel_shuffle_tail(n_feats, scale, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        enlarged = F.interpolate(x, scale_factor=self.scale, mode="bilinear")
        out: Tensor = self.to_img(self.feats(self.to_feat(x))) + enlarged
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    return {
        "scale": shuffle_scale(state, "to_img.0.weight"),
        "n_feats": out_channels(state, "to_feat.weight"),
        "n_blocks": count(state, r"feats\.\d+\.conv1\.conv1\.weight"),
        "split_feats": out_channels(state, "feats.0.conv1.conv1.weight"),
        "hidden_feats": out_channels(state, "feats.0.conv2.conv1.weight"),
    }


ARCHITECTURE = Architecture(
    name=SAFMNv3.name,
    title="SAFMNv3",
    paper="NTIRE 2025, team 19; after Sun et al., ICCV 2023",
    data_range=SAFMNv3.data_range,
    scales=(2, 3, 4),
    inference=SAFMNv3,
    read_sizes=read_sizes,
    min_size=8,
    tileable=False,
)
