"""EFDN, the winner of the NTIRE 2023 challenge on efficient super-resolution and the baseline of NTIRE 2025.

Wang, "Edge-enhanced Feature Distillation Network for Efficient Super-Resolution", CVPR Workshops 2022. This is the
inference form: the edge-enhanced diverse branch blocks are merged into 3x3 convolutions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, out_channels, shuffle_scale
from fmen_core.blocks.attention import ESA
from fmen_core.blocks.layers import conv1x1, conv3x3, named, pixel_shuffle_tail


class Cell(nn.Module):
    """Three convolutions with PReLU; half of the channels before and after each of them are distilled and fused."""

    def __init__(self, n_feats: int) -> None:
        super().__init__()
        self.conv1 = named(conv1x1=conv1x1(n_feats, n_feats), act=nn.PReLU(n_feats))
        self.conv2 = named(rep_conv=conv3x3(n_feats, n_feats), act=nn.PReLU(n_feats))
        self.conv3 = named(rep_conv=conv3x3(n_feats, n_feats), act=nn.PReLU(n_feats))
        self.fuse = conv1x1(2 * n_feats, n_feats)
        self.att = ESA(n_feats, n_feats // 4)
        self.branch = nn.ModuleList(conv1x1(n_feats, n_feats // 2) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``(N, n_feats, H, W)``; the output has the same shape."""
        first = self.conv1(x)
        second = self.conv2(first)
        third = self.conv3(second)
        distilled = [self.branch[i](part) for i, part in enumerate((x, first, second, third))]
        out: Tensor = self.att(self.fuse(torch.cat(distilled, dim=1)))
        out += x
        return out


class EFDN(nn.Module):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)``, clamped to ``[0, 1]``.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
    """

    name = "efdn"
    data_range = 1.0

    def __init__(self, scale: int = 4, n_feats: int = 48) -> None:
        super().__init__()
        self.scale = scale
        self.head = conv3x3(3, n_feats)
        self.cells = nn.ModuleList(Cell(n_feats) for _ in range(4))
        self.local_fuse = nn.ModuleList(conv1x1(2 * n_feats, n_feats) for _ in range(3))
        self.tail = pixel_shuffle_tail(n_feats, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        head = self.head(x)
        first = self.cells[0](head)
        second = self.cells[1](first)
        second_fused = self.local_fuse[0](torch.cat([first, second], dim=1))
        third = self.cells[2](second_fused)
        third_fused = self.local_fuse[1](torch.cat([second, third], dim=1))
        fourth = self.cells[3](third_fused)
        # The published network joins the fourth cell with the second, not with the third.
        fused = self.local_fuse[2](torch.cat([second, fourth], dim=1))
        out: Tensor = self.tail(fused + head)
        return out.clamp(0, 1)


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    return {
        "scale": shuffle_scale(state, "tail.0.weight"),
        "n_feats": out_channels(state, "head.weight"),
    }


ARCHITECTURE = Architecture(
    name=EFDN.name,
    title="EFDN",
    paper="Wang, CVPR Workshops 2022; winner of NTIRE 2023 and baseline of NTIRE 2025",
    data_range=EFDN.data_range,
    scales=(2, 3, 4),
    inference=EFDN,
    read_sizes=read_sizes,
    min_size=15,
    tileable=False,
)
