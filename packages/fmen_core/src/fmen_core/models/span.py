"""SPAN in its inference form, with 28 channels the baseline of the NTIRE 2026 challenge on efficient super-resolution.

Wan et al., "Swift Parameter-free Attention Network for Efficient Super-Resolution", CVPR Workshops 2024: the attention
is an odd function of the features themselves and has no parameters.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, out_channels, shuffle_scale
from fmen_core.blocks.layers import conv1x1, pixel_shuffle_tail
from fmen_core.blocks.swift_attention import SwiftConvs, attention_map, eval_conv

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean RGB of DIV2K's training images in [0, 1]."""


class Block(SwiftConvs):
    """Swift parameter-free attention block (section 3.2)."""

    def __init__(self, n_feats: int) -> None:
        super().__init__(n_feats, n_feats)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(N, n_feats, H, W)`` to the block's output, its first activation and its attention, of the same shape."""
        first, _second, third = self.convolve(x)
        attention = attention_map(third)
        return (third + x) * attention, first, attention


class SPAN(nn.Module):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
    """

    name = "span"
    data_range = 1.0
    mean: Tensor

    def __init__(self, scale: int = 4, n_feats: int = 28) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("mean", torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1), persistent=False)
        self.conv_1 = eval_conv(3, n_feats)
        self.block_1 = Block(n_feats)
        self.block_2 = Block(n_feats)
        self.block_3 = Block(n_feats)
        self.block_4 = Block(n_feats)
        self.block_5 = Block(n_feats)
        self.block_6 = Block(n_feats)
        self.conv_2 = eval_conv(n_feats, n_feats)
        self.conv_cat = conv1x1(4 * n_feats, n_feats)
        self.upsampler = pixel_shuffle_tail(n_feats, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        # The weights expect centred values in gray levels; the output is in [0, 1], and is not centred.
        x = (x - self.mean) * 255.0
        head = self.conv_1(x)
        results = []
        features = head
        for block in (self.block_1, self.block_2, self.block_3, self.block_4, self.block_5, self.block_6):
            # All results stay referenced, as in the published code, whose peak memory is measured.
            results.append(block(features))
            features = results[-1][0]
        after_first_block, activation_of_last = results[0][0], results[-1][1]
        tail = self.conv_2(features)
        fused = self.conv_cat(torch.cat([head, tail, after_first_block, activation_of_last], dim=1))
        out: Tensor = self.upsampler(fused)
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    return {
        "scale": shuffle_scale(state, "upsampler.0.weight"),
        "n_feats": out_channels(state, "conv_1.eval_conv.weight"),
    }


ARCHITECTURE = Architecture(
    name=SPAN.name,
    title="SPAN",
    paper="Wan et al., CVPR Workshops 2024; with 28 channels the baseline of NTIRE 2026",
    data_range=SPAN.data_range,
    scales=(2, 3, 4),
    inference=SPAN,
    read_sizes=read_sizes,
)
