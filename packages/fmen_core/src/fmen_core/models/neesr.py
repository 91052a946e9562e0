"""NEESR's network in the NTIRE 2022 challenge on efficient super-resolution (team 05).

RFDN (Liu et al., ECCV Workshops 2020) simplified: no shortcuts inside the blocks, no fusion of the blocks' outputs, ten
distilled channels, and a lighter ESA that starts with max-pooling. The challenge's report (Li et al., "NTIRE 2022
Challenge on Efficient Super-Resolution: Methods and Results", CVPR Workshops 2022) describes it. This is the inference
form, in which the edge-oriented convolutions are plain 3x3 convolutions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, out_channels, shuffle_scale
from fmen_core.blocks.attention import SpatialGate, resize_like
from fmen_core.blocks.distillation import FeatureDistillation
from fmen_core.blocks.layers import conv3x3, named, pixel_shuffle_tail


class PooledESA(SpatialGate):
    """ESA that starts with 7x7 max-pooling, followed by two parallel convolutions on the small map."""

    def __init__(self, n_feats: int, esa_feats: int) -> None:
        super().__init__(n_feats, esa_feats)
        self.conv_2 = conv3x3(esa_feats, esa_feats)
        self.conv_3 = conv3x3(esa_feats, esa_feats)
        self.conv_23 = conv3x3(2 * esa_feats, esa_feats)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the attention to ``(N, n_feats, H, W)``; H and W are at least 5."""
        reduced = self.conv1(x)
        small = F.max_pool2d(reduced, kernel_size=7, stride=7, padding=1)
        views = torch.cat([self.relu(self.conv_2(small)), self.relu(self.conv_3(small))], dim=1)
        coarse = resize_like(self.conv_23(views), x)
        return self.gate(x, reduced, coarse)


class NEESR(nn.Module):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 255]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
        distilled: Channels that each step of a block distils.
    """

    name = "neesr"
    data_range = 255.0

    def __init__(self, scale: int = 4, n_feats: int = 42, distilled: int = 10) -> None:
        super().__init__()
        self.scale = scale

        def conv(in_channels: int, out_channels: int) -> nn.Module:
            return named(conv3x3=conv3x3(in_channels, out_channels))

        def block() -> FeatureDistillation:
            return FeatureDistillation(n_feats, distilled, PooledESA(n_feats, n_feats // 4), conv=conv)

        self.fea_conv = conv3x3(3, n_feats)
        self.B1 = block()
        self.B2 = block()
        self.B3 = block()
        self.B4 = block()
        self.LR_conv = conv3x3(n_feats, n_feats)
        self.upsampler = pixel_shuffle_tail(n_feats, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        head = self.fea_conv(x)
        first = self.B1(head)
        second = self.B2(first)
        third = self.B3(second)
        fourth = self.B4(third)
        out: Tensor = self.upsampler(self.LR_conv(fourth) + head)
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    return {
        "scale": shuffle_scale(state, "upsampler.0.weight"),
        "n_feats": out_channels(state, "fea_conv.weight"),
        "distilled": out_channels(state, "B1.c1_d.weight"),
    }


ARCHITECTURE = Architecture(
    name=NEESR.name,
    title="NEESR (plain RFDN)",
    paper="NTIRE 2022, team 05 NEESR; after Liu et al., ECCV Workshops 2020",
    data_range=NEESR.data_range,
    scales=(2, 3, 4),
    inference=NEESR,
    read_sizes=read_sizes,
    min_size=5,
    tileable=False,
)
