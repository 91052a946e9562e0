"""PKDSR of the NTIRE 2026 challenge on efficient super-resolution (team 16).

SPANF with a tail that is pruned from 32 to 24 channels and trained by distillation. The challenge's report is "The
Eleventh NTIRE 2026 Efficient Super-Resolution Challenge Report", arXiv:2604.03198.
"""

from __future__ import annotations

from typing import Any

from fmen_core.architecture import Architecture, StateDict, out_channels, shuffle_scale
from fmen_core.blocks.layers import conv1x1
from fmen_core.blocks.swift_attention import eval_conv
from fmen_core.models.spanf import SPANF


class PKDSR(SPANF):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)``.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
        tail_feats: Channels before the last convolution.
    """

    name = "pkdsr"

    def __init__(self, scale: int = 4, n_feats: int = 32, tail_feats: int = 24) -> None:
        super().__init__(scale, n_feats)
        self.conv_cat = conv1x1(2 * n_feats + 3 * scale**2, tail_feats)
        self.conv_2 = eval_conv(tail_feats, 3 * scale**2)


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    n_feats = out_channels(state, "block_1.c1_r.eval_conv.weight")
    tail_feats = out_channels(state, "conv_cat.weight")
    return {
        "scale": shuffle_scale(state, "conv_2.eval_conv.weight"),
        "n_feats": n_feats,
        "tail_feats": tail_feats if tail_feats != n_feats else None,  # otherwise the weights are SPANF's
    }


ARCHITECTURE = Architecture(
    name=PKDSR.name,
    title="PKDSR",
    paper="NTIRE 2026, team 16; after SPANF of NTIRE 2025, team 24",
    data_range=PKDSR.data_range,
    scales=(2, 3, 4),
    inference=PKDSR,
    read_sizes=read_sizes,
)
