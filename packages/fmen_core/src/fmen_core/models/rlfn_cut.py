"""ByteESR's RLFN_cut, the winner of the NTIRE 2022 challenge on efficient super-resolution, runtime track (team 04).

Kong et al., "Residual Local Feature Network for Efficient Super-Resolution", CVPR Workshops 2022: no distillation;
each of four blocks has three plain convolutions with a shortcut, and a narrow ESA.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, out_channels, shuffle_scale
from fmen_core.blocks.attention import ESA
from fmen_core.blocks.layers import conv1x1, conv3x3, leaky_relu, pixel_shuffle_tail
from fmen_core.blocks.residual_local import ResidualLocalFeature


class RLFNCut(nn.Module):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 255]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features between the blocks.
        mid_feats: Channels inside the blocks.
        esa_feats: Channels inside the attention.
    """

    name = "rlfn-cut"
    data_range = 255.0

    def __init__(self, scale: int = 4, n_feats: int = 46, mid_feats: int = 48, esa_feats: int = 16) -> None:
        super().__init__()
        self.scale = scale

        def block() -> ResidualLocalFeature:
            return ResidualLocalFeature(
                n_feats,
                mid_feats,
                act=leaky_relu(),
                fuse=conv1x1(n_feats, n_feats),
                attention=ESA(n_feats, esa_feats, deep=False),
            )

        self.fea_conv = conv3x3(3, n_feats)
        self.B1 = block()
        self.B2 = block()
        self.B3 = block()
        self.B4 = block()
        self.LR_conv = conv3x3(n_feats, n_feats)
        self.upsampler = pixel_shuffle_tail(n_feats, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        head = self.fea_conv(x)
        features = self.B1(head)
        features = self.B2(features)
        features = self.B3(features)
        features = self.B4(features)
        out: Tensor = self.upsampler(self.LR_conv(features) + head)
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    return {
        "scale": shuffle_scale(state, "upsampler.0.weight"),
        "n_feats": out_channels(state, "fea_conv.weight"),
        "mid_feats": out_channels(state, "B1.c1_r.weight"),
        "esa_feats": out_channels(state, "B1.esa.conv1.weight"),
    }


ARCHITECTURE = Architecture(
    name=RLFNCut.name,
    title="ByteESR (RLFN_cut)",
    paper="Kong et al., CVPR Workshops 2022; NTIRE 2022, team 04 ByteESR, winner of the runtime track",
    data_range=RLFNCut.data_range,
    scales=(2, 3, 4),
    inference=RLFNCut,
    read_sizes=read_sizes,
    min_size=15,
    tileable=False,
)
