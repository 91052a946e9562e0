"""DRRN: one residual unit applied 25 times to the bicubically enlarged luma.

Tai, Yang and Liu, "Image Super-Resolution via Deep Recursive Residual Network", CVPR 2017; DRRN_B1U25. The recursions
share the BatchNorms, too.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, out_channels
from fmen_core.blocks.layers import conv3x3, preactivated
from fmen_core.blocks.luma import LumaNetwork, bicubic_scale


class DRRN(LumaNetwork):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
        n_units: Applications of the residual unit.
    """

    name = "drrn"

    def __init__(self, scale: int = 4, n_feats: int = 128, n_units: int = 25) -> None:
        super().__init__(scale)
        self.n_units = n_units
        self.head = conv3x3(1, n_feats)
        self.unit = nn.Sequential(preactivated(conv3x3(n_feats, n_feats)), preactivated(conv3x3(n_feats, n_feats)))
        self.tail = preactivated(conv3x3(n_feats, 1))

    def upscale(self, luma: Tensor) -> Tensor:
        """Upscale luma ``(N, 1, H, W)``."""
        enlarged: Tensor = self.bicubic(luma)
        first: Tensor = self.head(enlarged)
        features = first
        for _ in range(self.n_units):
            features = self.unit(features) + first
        out: Tensor = self.tail(features) + enlarged
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    return {"scale": bicubic_scale(state), "n_feats": out_channels(state, "unit.0.conv.weight")}


ARCHITECTURE = Architecture(
    name=DRRN.name,
    title="DRRN",
    paper="Tai et al., CVPR 2017",
    data_range=DRRN.data_range,
    scales=(2, 3, 4),
    inference=DRRN,
    read_sizes=read_sizes,
    hidden_sizes=("n_units",),
)
