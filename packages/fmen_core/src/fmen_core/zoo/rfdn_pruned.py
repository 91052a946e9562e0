"""MegSR's pruned RFDN in the NTIRE 2022 challenge on efficient super-resolution (team 40).

E-RFDN (Liu et al., ECCV Workshops 2020) pruned from 50 to 40 channels, its attention as wide as before, and without the
shortcuts inside the blocks. The challenge's report (Li et al., "NTIRE 2022 Challenge on Efficient Super-Resolution:
Methods and Results", CVPR Workshops 2022) describes it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict
from fmen_core.zoo.attention import ESA
from fmen_core.zoo.detection import recognise, shuffle_scale
from fmen_core.zoo.distillation import FeatureDistillation
from fmen_core.zoo.layers import conv1x1, conv3x3, leaky_relu, pixel_shuffle_tail

N_FEATS = 40
ESA_FEATS = 12  # a quarter of E-RFDN's 50; with N_FEATS, what tells this network's weights from an E-RFDN's


class RFDNPruned(nn.Module):
    """RGB ``(N, 3, H, W)`` in ``[0, 255]`` to ``(N, 3, scale*H, scale*W)``.

    Args:
        scale: How many times larger the output is.
    """

    name = "rfdn-pruned"
    data_range = 255.0

    def __init__(self, scale: int = 4) -> None:
        super().__init__()
        self.scale = scale

        def block() -> FeatureDistillation:
            return FeatureDistillation(N_FEATS, N_FEATS // 2, ESA(N_FEATS, ESA_FEATS))

        self.fea_conv = conv3x3(3, N_FEATS)
        self.B1 = block()
        self.B2 = block()
        self.B3 = block()
        self.B4 = block()
        self.c = nn.Sequential(conv1x1(4 * N_FEATS, N_FEATS), leaky_relu())
        self.LR_conv = conv3x3(N_FEATS, N_FEATS)
        self.upsampler = pixel_shuffle_tail(N_FEATS, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Super-resolve a batch."""
        head = self.fea_conv(x)
        first = self.B1(head)
        second = self.B2(first)
        third = self.B3(second)
        fourth = self.B4(third)
        fused = self.c(torch.cat([first, second, third, fourth], dim=1))
        out: Tensor = self.upsampler(self.LR_conv(fused) + head)
        return out


def detect(state: StateDict) -> dict[str, Any] | None:
    """The arguments of ``RFDNPruned`` that reproduce a state dict, or None if it is of another network."""
    return recognise(state, RFDNPruned, scale=shuffle_scale(state, "upsampler.0.weight"))


ARCHITECTURE = Architecture(
    name=RFDNPruned.name,
    title="MegSR (pruned RFDN)",
    source="NTIRE 2022, team 40 MegSR; after Liu et al., ECCV Workshops 2020",
    data_range=RFDNPruned.data_range,
    scales=(2, 3, 4),
    build=RFDNPruned,
    detect=detect,
)
