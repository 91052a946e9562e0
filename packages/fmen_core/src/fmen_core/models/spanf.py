"""SPANF of the NTIRE 2025 challenge on efficient super-resolution (team 24).

SPAN (Wan et al., CVPR Workshops 2024) with five blocks, the first of which takes the image itself, and a
nearest-neighbour convolution of it beside them. The challenge's report is Ren et al., "The Tenth NTIRE 2025 Efficient
Super-Resolution Challenge Report", CVPR Workshops 2025. This is the inference form, after re-parameterization.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, out_channels, shuffle_scale
from fmen_core.blocks.layers import conv1x1
from fmen_core.blocks.swift_attention import SwiftTrunk, eval_conv


class SPANF(SwiftTrunk):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)``.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
    """

    name = "spanf"

    def __init__(self, scale: int = 4, n_feats: int = 32) -> None:
        super().__init__(scale, n_feats)
        self.conv_cat = conv1x1(2 * n_feats + 3 * scale**2, n_feats)
        self.conv_2 = eval_conv(n_feats, 3 * scale**2)
        self.depth_to_space = nn.PixelShuffle(scale)

    def tail(self, joined: Tensor) -> Tensor:
        """Fuse and upsample."""
        out: Tensor = self.depth_to_space(self.conv_2(self.conv_cat(joined)))
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    return {
        "scale": shuffle_scale(state, "conv_2.eval_conv.weight"),
        "n_feats": out_channels(state, "block_1.c1_r.eval_conv.weight"),
    }


ARCHITECTURE = Architecture(
    name=SPANF.name,
    title="SPANF",
    paper="NTIRE 2025, team 24; after Wan et al., CVPR Workshops 2024",
    data_range=SPANF.data_range,
    scales=(2, 3, 4),
    inference=SPANF,
    read_sizes=read_sizes,
)
