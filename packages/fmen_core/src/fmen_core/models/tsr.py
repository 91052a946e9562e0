"""TSR of the NTIRE 2025 challenge on efficient super-resolution (team 31).

Four blocks of four 3x3 convolutions each, without attention. The challenge's report is Ren et al., "The Tenth NTIRE
2025 Efficient Super-Resolution Challenge Report", CVPR Workshops 2025. This is the inference form, after
re-parameterization.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, count, out_channels, shuffle_scale
from fmen_core.blocks.layers import pixel_shuffle_tail
from fmen_core.blocks.swift_attention import eval_conv


class Block(nn.Module):
    """Four convolutions, each with SiLU, and a shortcut around all."""

    def __init__(self, n_feats: int) -> None:
        super().__init__()
        self.c1_r = eval_conv(n_feats, n_feats)
        self.c2_r = eval_conv(n_feats, n_feats)
        self._extern_conv_block = nn.Sequential(eval_conv(n_feats, n_feats))
        self.c3_r = eval_conv(n_feats, n_feats)
        self.act1 = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``(N, n_feats, H, W)``; the output has the same shape."""
        first = self.act1(self.c1_r(x))
        second = self.act1(self.c2_r(first))
        second = self.act1(self._extern_conv_block(second))
        third = self.c3_r(second)
        out: Tensor = self.act1(third) + x
        return out


class TSR(nn.Module):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)``.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
        n_blocks: Number of blocks.
    """

    name = "tsr"
    data_range = 1.0

    def __init__(self, scale: int = 4, n_feats: int = 32, n_blocks: int = 4) -> None:
        super().__init__()
        self.scale = scale
        self.conv_1 = eval_conv(3, n_feats)
        self.blocks = nn.Sequential(*(Block(n_feats) for _ in range(n_blocks)))
        self.conv_2: nn.Module = eval_conv(n_feats, n_feats)
        self.upsampler = pixel_shuffle_tail(n_feats, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        head = self.conv_1(x)
        features = self.blocks(head)
        out: Tensor = self.upsampler(self.conv_2(features) + head)
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    return {
        "scale": shuffle_scale(state, "upsampler.0.weight"),
        "n_feats": out_channels(state, "conv_1.eval_conv.weight"),
        "n_blocks": count(state, r"blocks\.\d+\.c1_r\.eval_conv\.weight"),
    }


ARCHITECTURE = Architecture(
    name=TSR.name,
    title="TSR",
    paper="NTIRE 2025, team 31",
    data_range=TSR.data_range,
    scales=(2, 3, 4),
    inference=TSR,
    read_sizes=read_sizes,
)
