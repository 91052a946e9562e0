"""E-RFDN, the residual feature distillation network that won the AIM 2020 challenge on efficient super-resolution.

Liu, Tang and Wu, "Residual Feature Distillation Network for Lightweight Image Super-Resolution", ECCV Workshops 2020.
The enhanced version: four blocks with 50 channels and enhanced spatial attention.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, out_channels, shuffle_scale
from fmen_core.blocks.attention import ESA
from fmen_core.blocks.distillation import FeatureDistillation
from fmen_core.blocks.layers import conv1x1, conv3x3, leaky_relu, pixel_shuffle_tail


class RFDN(nn.Module):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 255]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features; half of them are distilled.
        esa_feats: Width of the attention; a quarter of ``n_feats`` by default.
        residual: Whether the convolutions inside a block have shortcuts.
    """

    name = "rfdn"
    data_range = 255.0

    def __init__(
        self, scale: int = 4, n_feats: int = 50, *, esa_feats: int | None = None, residual: bool = True
    ) -> None:
        super().__init__()
        self.scale = scale

        def block() -> FeatureDistillation:
            attention = ESA(n_feats, esa_feats or n_feats // 4)
            return FeatureDistillation(n_feats, n_feats // 2, attention, residual=residual)

        self.fea_conv = conv3x3(3, n_feats)
        self.B1 = block()
        self.B2 = block()
        self.B3 = block()
        self.B4 = block()
        self.c = nn.Sequential(conv1x1(4 * n_feats, n_feats), leaky_relu())
        self.LR_conv = conv3x3(n_feats, n_feats)
        self.upsampler = pixel_shuffle_tail(n_feats, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        head = self.fea_conv(x)
        first = self.B1(head)
        second = self.B2(first)
        third = self.B3(second)
        fourth = self.B4(third)
        fused = self.c(torch.cat([first, second, third, fourth], dim=1))
        out: Tensor = self.upsampler(self.LR_conv(fused) + head)
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    return {
        "scale": shuffle_scale(state, "upsampler.0.weight"),
        "n_feats": out_channels(state, "fea_conv.weight"),
        "esa_feats": out_channels(state, "B1.esa.conv1.weight"),
    }


ARCHITECTURE = Architecture(
    name=RFDN.name,
    title="E-RFDN",
    paper="Liu et al., ECCV Workshops 2020; winner of AIM 2020",
    data_range=RFDN.data_range,
    scales=(2, 3, 4),
    inference=RFDN,
    read_sizes=read_sizes,
    hidden_sizes=("residual",),
    min_size=15,
    tileable=False,
)
