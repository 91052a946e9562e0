"""DRCN: one convolution applied sixteen times; every recursion is reconstructed, and the results are averaged.

Kim, Lee and Lee, "Deeply-Recursive Convolutional Network for Image Super-Resolution", CVPR 2016.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, out_channels
from fmen_core.blocks.layers import conv3x3
from fmen_core.blocks.luma import LumaNetwork, bicubic_scale


class DRCN(LumaNetwork):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
        n_recursions: Applications of the shared convolution.
    """

    name = "drcn"

    def __init__(self, scale: int = 4, n_feats: int = 256, n_recursions: int = 16) -> None:
        super().__init__(scale)
        self.embed1 = conv3x3(1, n_feats)
        self.embed2 = conv3x3(n_feats, n_feats)
        self.infer = conv3x3(n_feats, n_feats)
        self.reconstruct1 = conv3x3(n_feats, n_feats)
        self.reconstruct2 = conv3x3(n_feats, 1)
        self.weights = nn.Parameter(torch.full((n_recursions, 1, 1), 1 / n_recursions))

    def upscale(self, luma: Tensor) -> Tensor:
        """Upscale luma ``(N, 1, H, W)``."""
        enlarged: Tensor = self.bicubic(luma)
        features = F.relu(self.embed2(F.relu(self.embed1(enlarged))))
        out = torch.zeros_like(enlarged)
        for weight in self.weights / self.weights.sum():
            features = F.relu(self.infer(features))
            out = out + weight * (self.reconstruct2(self.reconstruct1(features)) + enlarged)
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    weights = state.get("weights")
    return {
        "scale": bicubic_scale(state),
        "n_feats": out_channels(state, "embed1.weight"),
        "n_recursions": len(weights) if weights is not None and weights.dim() == 3 else None,
    }


ARCHITECTURE = Architecture(
    name=DRCN.name,
    title="DRCN",
    paper="Kim et al., CVPR 2016",
    data_range=DRCN.data_range,
    scales=(2, 3, 4),
    inference=DRCN,
    read_sizes=read_sizes,
)
