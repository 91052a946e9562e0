"""IMDN as in its paper.

Hui, Gao, Yang and Wang, "Lightweight Image Super-Resolution with Information Multi-distillation Network", ACM MM 2019.
Six blocks with contrast-aware channel attention; the outputs of all blocks are fused. The authors publish weights for
x2, x3 and x4.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, out_channels, shuffle_scale
from fmen_core.blocks.attention import ContrastAttention
from fmen_core.blocks.distillation import split_off
from fmen_core.blocks.layers import conv1x1, conv3x3, leaky_relu, pixel_shuffle_tail


class Block(nn.Module):
    """Information multi-distillation block (section 3.1), each convolution distils a quarter of the channels."""

    def __init__(self, n_feats: int) -> None:
        super().__init__()
        self.distilled = n_feats // 4
        passed_on = n_feats - self.distilled
        self.c1 = conv3x3(n_feats, n_feats)
        self.c2 = conv3x3(passed_on, n_feats)
        self.c3 = conv3x3(passed_on, n_feats)
        self.c4 = conv3x3(passed_on, self.distilled)
        self.c5 = conv1x1(n_feats, n_feats)
        self.cca = ContrastAttention(4 * self.distilled)
        self.act = leaky_relu()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``(N, n_feats, H, W)``; the output has the same shape."""
        parts, rest = split_off(x, (self.c1, self.c2, self.c3), self.distilled, self.act)
        last = self.c4(rest)
        joined = torch.cat([*parts, last], dim=1)
        out: Tensor = self.c5(self.cca(joined)) + x
        return out


class IMDN(nn.Module):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
    """

    name = "imdn"
    data_range = 1.0

    def __init__(self, scale: int = 4, n_feats: int = 64) -> None:
        super().__init__()
        self.scale = scale
        self.fea_conv: nn.Module = conv3x3(3, n_feats)
        self.IMDB1 = Block(n_feats)
        self.IMDB2 = Block(n_feats)
        self.IMDB3 = Block(n_feats)
        self.IMDB4 = Block(n_feats)
        self.IMDB5 = Block(n_feats)
        self.IMDB6 = Block(n_feats)
        self.c = nn.Sequential(conv1x1(6 * n_feats, n_feats), leaky_relu())
        self.LR_conv = conv3x3(n_feats, n_feats)
        self.upsampler = pixel_shuffle_tail(n_feats, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        head = self.fea_conv(x)
        features = [head]
        for block in (self.IMDB1, self.IMDB2, self.IMDB3, self.IMDB4, self.IMDB5, self.IMDB6):
            features.append(block(features[-1]))
        fused = self.c(torch.cat(features[1:], dim=1))
        out: Tensor = self.upsampler(self.LR_conv(fused) + head)
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    return {
        "scale": shuffle_scale(state, "upsampler.0.weight"),
        "n_feats": out_channels(state, "fea_conv.weight"),
    }


ARCHITECTURE = Architecture(
    name=IMDN.name,
    title="IMDN",
    paper="Hui et al., ACM MM 2019",
    data_range=IMDN.data_range,
    scales=(2, 3, 4),
    inference=IMDN,
    read_sizes=read_sizes,
    tileable=False,
)
