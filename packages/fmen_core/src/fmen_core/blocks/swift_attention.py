"""The swift parameter-free attention of SPAN (Wan et al., CVPR Workshops 2024) and the trunk of SPANF."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fmen_core.blocks.layers import conv3x3, named, nearest_conv


def eval_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """A 3x3 convolution under the key name that SPAN's re-parameterized convolutions have in published weights."""
    return named(eval_conv=conv3x3(in_channels, out_channels))


class SwiftConvs(nn.Module):
    """The three convolutions of a swift parameter-free attention block (SPAN, section 3.2).

    Args:
        in_channels: Channels of the input.
        n_feats: Channels of the three outputs.
    """

    def __init__(self, in_channels: int, n_feats: int) -> None:
        super().__init__()
        self.c1_r = eval_conv(in_channels, n_feats)
        self.c2_r = eval_conv(n_feats, n_feats)
        self.c3_r = eval_conv(n_feats, n_feats)
        self.act = nn.SiLU(inplace=True)

    def convolve(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(N, in_channels, H, W)`` to the activated outputs of the first two convolutions and that of the third."""
        first = self.act(self.c1_r(x))
        second = self.act(self.c2_r(first))
        third = self.c3_r(second)
        return first, second, third


def attention_map(x: Tensor) -> Tensor:
    """SPAN's attention: an odd function of the features, in (-0.5, 0.5)."""
    return torch.sigmoid(x) - 0.5


class SwiftBlock(SwiftConvs):
    """A swift parameter-free attention block that returns its output alone; without attention if the width changes."""

    def __init__(self, in_channels: int, n_feats: int) -> None:
        super().__init__(in_channels, n_feats)
        self.attends = in_channels == n_feats

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` to ``(N, n_feats, H, W)``."""
        _first, _second, third = self.convolve(x)
        if not self.attends:
            return third
        attention = attention_map(third)
        return (third + x) * attention


class SwiftTrunk(nn.Module):
    """Everything but the tail of SPANF and of the networks derived from it.

    Five blocks, the first of which takes the image itself, and beside them a nearest-neighbour convolution of it.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
    """

    data_range = 1.0

    def __init__(self, scale: int, n_feats: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv_near = nearest_conv(scale)
        self.block_1 = SwiftBlock(3, n_feats)
        self.block_2 = SwiftBlock(n_feats, n_feats)
        self.block_3 = SwiftBlock(n_feats, n_feats)
        self.block_4 = SwiftBlock(n_feats, n_feats)
        self.block_5 = SwiftBlock(n_feats, n_feats)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        near = self.conv_near(x)
        # All features stay referenced, as in the published code, whose peak memory is measured.
        features = [self.block_1(x)]
        for block in (self.block_2, self.block_3, self.block_4, self.block_5):
            features.append(block(features[-1]))
        return self.tail(torch.cat([near, features[-1], features[0]], dim=1))

    def tail(self, joined: Tensor) -> Tensor:
        """``(N, 3 * scale**2 + 2 * n_feats, H, W)`` to the image."""
        raise NotImplementedError
