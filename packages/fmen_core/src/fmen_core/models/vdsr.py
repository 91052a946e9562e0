"""VDSR: twenty 3x3 convolutions that add details to the bicubically enlarged luma.

Kim, Lee and Lee, "Accurate Image Super-Resolution Using Very Deep Convolutional Networks", CVPR 2016.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, count, out_channels
from fmen_core.blocks.layers import conv3x3
from fmen_core.blocks.luma import LumaNetwork, bicubic_scale


class VDSR(LumaNetwork):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
        n_layers: Convolutions, at least two.
    """

    name = "vdsr"

    def __init__(self, scale: int = 4, n_feats: int = 64, n_layers: int = 20) -> None:
        super().__init__(scale)
        widths = [1, *[n_feats] * (n_layers - 1), 1]
        self.convs = nn.ModuleList(conv3x3(widths[i], widths[i + 1]) for i in range(n_layers))

    def upscale(self, luma: Tensor) -> Tensor:
        """Upscale luma ``(N, 1, H, W)``."""
        enlarged: Tensor = self.bicubic(luma)
        *convs, last = self.convs
        features = enlarged
        for conv in convs:
            features = F.relu(conv(features))
        out: Tensor = last(features) + enlarged
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    return {
        "scale": bicubic_scale(state),
        "n_feats": out_channels(state, "convs.0.weight"),
        "n_layers": count(state, r"convs\.\d+\.weight"),
    }


ARCHITECTURE = Architecture(
    name=VDSR.name,
    title="VDSR",
    paper="Kim et al., CVPR 2016",
    data_range=VDSR.data_range,
    scales=(2, 3, 4),
    inference=VDSR,
    read_sizes=read_sizes,
)
