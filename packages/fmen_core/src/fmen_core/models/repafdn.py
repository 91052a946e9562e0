"""Super's RePAFDN, the re-parameterized pixel attention feature distillation network (NTIRE 2022, team 10).

RFDN's blocks (Liu et al., ECCV Workshops 2020) without shortcuts; the first three with two steps, the last with three;
pixel attention (Zhao et al., ECCV Workshops 2020) before the upsampling. The challenge's report (Li et al., "NTIRE 2022
Challenge on Efficient Super-Resolution: Methods and Results", CVPR Workshops 2022) describes it. This is the inference
form, after re-parameterization.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, out_channels, shuffle_scale
from fmen_core.blocks.attention import ESA, PixelAttention
from fmen_core.blocks.distillation import FeatureDistillation
from fmen_core.blocks.layers import conv1x1, conv3x3, leaky_relu, pixel_shuffle_tail


class RePAFDN(nn.Module):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features; the short blocks distil half of them, the long one a quarter.
    """

    name = "repafdn"
    data_range = 1.0

    def __init__(self, scale: int = 4, n_feats: int = 48) -> None:
        super().__init__()
        self.scale = scale

        def block(distilled: int, steps: int) -> FeatureDistillation:
            return FeatureDistillation(n_feats, distilled, ESA(n_feats, n_feats // 4), steps=steps)

        self.fea_conv = conv3x3(3, n_feats)
        self.B1 = block(n_feats // 2, steps=2)
        self.B2 = block(n_feats // 2, steps=2)
        self.B3 = block(n_feats // 2, steps=2)
        self.B4 = block(n_feats // 4, steps=3)
        self.c = nn.Sequential(conv1x1(4 * n_feats, n_feats), leaky_relu())
        self.LR_conv = conv3x3(n_feats, n_feats)
        self.pa = PixelAttention(n_feats)
        self.upsampler = pixel_shuffle_tail(n_feats, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        head = self.fea_conv(x)
        first = self.B1(head)
        second = self.B2(first)
        third = self.B3(second)
        fourth = self.B4(third)
        fused = self.c(torch.cat([first, second, third, fourth], dim=1))
        weighted = self.pa(self.LR_conv(fused))
        out: Tensor = self.upsampler(weighted + head)
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    return {
        "scale": shuffle_scale(state, "upsampler.0.weight"),
        "n_feats": out_channels(state, "fea_conv.weight"),
    }


ARCHITECTURE = Architecture(
    name=RePAFDN.name,
    title="Super (RePAFDN)",
    paper="NTIRE 2022, team 10 Super; after Liu et al., ECCV Workshops 2020",
    data_range=RePAFDN.data_range,
    scales=(2, 3, 4),
    inference=RePAFDN,
    read_sizes=read_sizes,
    min_size=15,
    tileable=False,
)
