"""PDS of the NTIRE 2026 challenge on efficient super-resolution (team 01).

SPANF with a tail of 20 channels. The challenge's report is "The Eleventh NTIRE 2026 Efficient Super-Resolution
Challenge Report", arXiv:2604.03198. This is the inference form, after re-parameterization.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, out_channels, shuffle_scale
from fmen_core.blocks.layers import conv1x1
from fmen_core.blocks.swift_attention import SwiftTrunk, eval_conv


class PDS(SwiftTrunk):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)``.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
        tail_feats: Channels before the last convolution.
    """

    name = "pds"

    def __init__(self, scale: int = 4, n_feats: int = 32, tail_feats: int = 20) -> None:
        super().__init__(scale, n_feats)
        self.conv_cat_1 = conv1x1(2 * n_feats + 3 * scale**2, tail_feats)
        self.conv_2_1 = eval_conv(tail_feats, 3 * scale**2)
        self.depth_to_space = nn.PixelShuffle(scale)

    def tail(self, joined: Tensor) -> Tensor:
        """Fuse and upsample."""
        out: Tensor = self.depth_to_space(self.conv_2_1(self.conv_cat_1(joined)))
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    return {
        "scale": shuffle_scale(state, "conv_2_1.eval_conv.weight"),
        "n_feats": out_channels(state, "block_1.c1_r.eval_conv.weight"),
        "tail_feats": out_channels(state, "conv_cat_1.weight"),
    }


ARCHITECTURE = Architecture(
    name=PDS.name,
    title="PDS",
    paper="NTIRE 2026, team 01; after SPANF of NTIRE 2025, team 24",
    data_range=PDS.data_range,
    scales=(2, 3, 4),
    inference=PDS,
    read_sizes=read_sizes,
)
