"""CARN: residual blocks whose outputs are cascaded, within a block of three and between the blocks.

Ahn, Kang and Sohn, "Fast, Accurate, and Lightweight Super-Resolution with Cascading Residual Network", ECCV 2018. The
published network has the upsampling layers of all three scales; this one has those of its scale.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, out_channels
from fmen_core.blocks.layers import conv1x1, conv3x3
from fmen_core.models.edsr_baseline import MEAN


class ResidualBlock(nn.Module):
    """Two convolutions, a shortcut around them, and a ReLU after the sum; ``(N, C, H, W)`` to the same shape."""

    def __init__(self, n_feats: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv3x3(n_feats, n_feats), nn.ReLU(inplace=True), conv3x3(n_feats, n_feats))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return F.relu(self.body(x) + x)


class Cascade(nn.Module):
    """Three blocks; each takes a 1x1 convolution of the input and of all earlier outputs (section 3.1).

    Args:
        n_feats: Channels of the features.
        blocks: The blocks.
    """

    def __init__(self, n_feats: int, blocks: list[nn.Module]) -> None:
        super().__init__()
        for index, block in enumerate(blocks, 1):
            self.add_module(f"b{index}", block)
            self.add_module(f"c{index}", nn.Sequential(conv1x1((index + 1) * n_feats, n_feats), nn.ReLU(inplace=True)))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the blocks to ``(N, n_feats, H, W)``; the output has the same shape."""
        seen = x
        for index in (1, 2, 3):
            seen = torch.cat([seen, self.get_submodule(f"b{index}")(x)], dim=1)
            x = self.get_submodule(f"c{index}")(seen)
        return x


class CARN(nn.Module):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
    """

    name = "carn"
    data_range = 1.0

    def __init__(self, scale: int = 4, n_feats: int = 64) -> None:
        super().__init__()
        self.scale = scale
        self.entry = conv3x3(3, n_feats)
        cascades = [Cascade(n_feats, [ResidualBlock(n_feats) for _ in range(3)]) for _ in range(3)]
        self.body = Cascade(n_feats, list(cascades))
        factors = (2, 2) if scale == 4 else (scale,)
        layers: list[nn.Module] = []
        for factor in factors:
            layers += [conv3x3(n_feats, n_feats * factor**2), nn.ReLU(inplace=True), nn.PixelShuffle(factor)]
        self.upsample = nn.ModuleDict({f"up{scale}": nn.Sequential(*layers)})
        self.exit = conv3x3(n_feats, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        mean = torch.tensor(MEAN, dtype=x.dtype, device=x.device).view(1, 3, 1, 1)
        features = self.body(self.entry(x - mean))
        out: Tensor = self.exit(self.upsample[f"up{self.scale}"](features)) + mean
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the names and shapes in a state dict; None stands for an absent tensor."""
    scales = [scale for scale in (2, 3, 4) if f"upsample.up{scale}.0.weight" in state]
    return {"scale": scales[0] if len(scales) == 1 else None, "n_feats": out_channels(state, "entry.weight")}


ARCHITECTURE = Architecture(
    name=CARN.name,
    title="CARN",
    paper="Ahn et al., ECCV 2018",
    data_range=CARN.data_range,
    scales=(2, 3, 4),
    inference=CARN,
    read_sizes=read_sizes,
)
