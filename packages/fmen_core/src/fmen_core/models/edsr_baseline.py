"""EDSR-baseline: sixteen residual blocks without BatchNorm.

Lim, Son, Kim, Nah and Lee, "Enhanced Deep Residual Networks for Single Image Super-Resolution", CVPR Workshops 2017.
The names of the parameters are those of the authors' PyTorch code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, count, out_channels
from fmen_core.blocks.layers import conv3x3, upscaling_convs

MEAN = (0.4488, 0.4371, 0.4040)
"""Mean of R, G and B over DIV2K."""


class MeanShift(nn.Module):
    """Add ``sign`` times the mean color of DIV2K to RGB in ``[0, 255]``.

    The state dict has the weight and bias of the authors' 1x1 convolution, which is not trained.

    Args:
        sign: 1 or -1.
    """

    def __init__(self, sign: int) -> None:
        super().__init__()
        self.bias: Tensor
        self.register_buffer("weight", torch.eye(3)[:, :, None, None])
        self.register_buffer("bias", sign * 255 * torch.tensor(MEAN))

    def forward(self, x: Tensor) -> Tensor:
        """Shift ``(N, 3, H, W)``."""
        return x + self.bias.view(1, 3, 1, 1)


class ResBlock(nn.Module):
    """Two convolutions with a ReLU in between and a shortcut around them; ``(N, C, H, W)`` to the same shape."""

    def __init__(self, n_feats: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv3x3(n_feats, n_feats), nn.ReLU(inplace=True), conv3x3(n_feats, n_feats))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        out: Tensor = self.body(x) + x
        return out


class EDSR(nn.Module):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 255]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
        n_blocks: Residual blocks.
    """

    name = "edsr-baseline"
    data_range = 255.0

    def __init__(self, scale: int = 4, n_feats: int = 64, n_blocks: int = 16) -> None:
        super().__init__()
        self.scale = scale
        self.sub_mean = MeanShift(-1)
        self.head = nn.Sequential(conv3x3(3, n_feats))
        self.body = nn.Sequential(*(ResBlock(n_feats) for _ in range(n_blocks)), conv3x3(n_feats, n_feats))
        self.tail = nn.Sequential(upscaling_convs(n_feats, scale), conv3x3(n_feats, 3))
        self.add_mean = MeanShift(1)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        head = self.head(self.sub_mean(x))
        out: Tensor = self.add_mean(self.tail(self.body(head) + head))
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None or 0 stands for an absent tensor."""
    n_feats = out_channels(state, "head.0.weight")
    first = out_channels(state, "tail.0.0.weight")
    factor = round((first / n_feats) ** 0.5) if first and n_feats else None
    return {
        "scale": 4 if "tail.0.2.weight" in state else factor,
        "n_feats": n_feats,
        "n_blocks": count(state, r"body\.\d+\.body\.0\.weight"),
    }


ARCHITECTURE = Architecture(
    name=EDSR.name,
    title="EDSR-baseline",
    paper="Lim et al., CVPR Workshops 2017",
    data_range=EDSR.data_range,
    scales=(2, 3, 4),
    inference=EDSR,
    read_sizes=read_sizes,
)
