"""RFDN as in its paper: six blocks with contrast-aware channel attention, which E-RFDN replaces with ESA.

Liu, Tang and Wu, "Residual Feature Distillation Network for Lightweight Image Super-Resolution", ECCV Workshops 2020.
RFDN-L has 52 channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, count, out_channels, shuffle_scale
from fmen_core.blocks.attention import ContrastAttention
from fmen_core.blocks.distillation import FeatureDistillation
from fmen_core.blocks.layers import conv1x1, conv3x3, leaky_relu, pixel_shuffle_tail

REDUCTION = 4
"""Ratio of the channels to those of the attention's bottleneck; with it, the published parameter counts come out."""


class RFDNWithCCA(nn.Module):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features; half of them are distilled.
        n_blocks: Distillation blocks.
    """

    name = "rfdn-cca"
    data_range = 1.0

    def __init__(self, scale: int = 4, n_feats: int = 48, n_blocks: int = 6) -> None:
        super().__init__()
        self.scale = scale
        self.head = conv3x3(3, n_feats)
        self.blocks = nn.ModuleList(
            FeatureDistillation(n_feats, n_feats // 2, ContrastAttention(n_feats, REDUCTION), residual=True)
            for _ in range(n_blocks)
        )
        self.fuse = nn.Sequential(conv1x1(n_blocks * n_feats, n_feats), leaky_relu())
        self.last = conv3x3(n_feats, n_feats)
        self.upsampler = pixel_shuffle_tail(n_feats, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        head = self.head(x)
        features = [head]
        for block in self.blocks:
            features.append(block(features[-1]))
        fused = self.fuse(torch.cat(features[1:], dim=1))
        out: Tensor = self.upsampler(self.last(fused) + head)
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None or 0 stands for an absent tensor."""
    return {
        "scale": shuffle_scale(state, "upsampler.0.weight"),
        "n_feats": out_channels(state, "head.weight"),
        "n_blocks": count(state, r"blocks\.\d+\.c5\.weight"),
    }


ARCHITECTURE = Architecture(
    name=RFDNWithCCA.name,
    title="RFDN",
    paper="Liu et al., ECCV Workshops 2020",
    data_range=RFDNWithCCA.data_range,
    scales=(2, 3, 4),
    inference=RFDNWithCCA,
    read_sizes=read_sizes,
    tileable=False,
)
