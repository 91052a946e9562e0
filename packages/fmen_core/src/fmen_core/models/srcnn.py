"""SRCNN: three convolutions on the bicubically enlarged luma.

Dong, Loy, He and Tang, "Image Super-Resolution Using Deep Convolutional Networks", TPAMI 2016; the sizes 9-5-5.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, out_channels
from fmen_core.blocks.luma import LumaNetwork, bicubic_scale


class SRCNN(LumaNetwork):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    Args:
        scale: Upscaling factor.
        n_feats: Channels after the first convolution; half as many after the second one.
    """

    name = "srcnn"

    def __init__(self, scale: int = 4, n_feats: int = 64) -> None:
        super().__init__(scale)
        self.conv1 = nn.Conv2d(1, n_feats, 9, padding=4)
        self.conv2 = nn.Conv2d(n_feats, n_feats // 2, 5, padding=2)
        self.conv3 = nn.Conv2d(n_feats // 2, 1, 5, padding=2)

    def upscale(self, luma: Tensor) -> Tensor:
        """Upscale luma ``(N, 1, H, W)``."""
        features = F.relu(self.conv1(self.bicubic(luma)))
        out: Tensor = self.conv3(F.relu(self.conv2(features)))
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    return {"scale": bicubic_scale(state), "n_feats": out_channels(state, "conv1.weight")}


ARCHITECTURE = Architecture(
    name=SRCNN.name,
    title="SRCNN",
    paper="Dong et al., TPAMI 2016",
    data_range=SRCNN.data_range,
    scales=(2, 3, 4),
    inference=SRCNN,
    read_sizes=read_sizes,
)
