"""IDN: four blocks that distil luma features, and a transposed convolution.

Hui, Wang and Gao, "Fast and Accurate Single Image Super-Resolution via Information Distillation Network", CVPR 2018.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, count, out_channels
from fmen_core.blocks.layers import conv1x1, conv3x3, leaky_relu
from fmen_core.blocks.luma import LumaNetwork, bicubic_scale


class Block(nn.Module):
    """Information distillation block (section 3.2): an enhancement unit and a compression unit.

    Args:
        n_feats: Channels in and out, D3 in the paper.
        step: The difference d between the widths of the enhancement unit.
        groups: Groups of its second and fifth convolution; one in ``groups`` channels is distilled.
    """

    def __init__(self, n_feats: int, step: int, groups: int) -> None:
        super().__init__()
        self.distilled = n_feats // groups
        self.lower = self.unit([n_feats, n_feats - step, n_feats - 2 * step, n_feats], 1, groups)
        passed_on = n_feats - self.distilled
        self.upper = self.unit([passed_on, n_feats, n_feats - step, n_feats + step], 1, groups)
        self.compress = nn.Sequential(conv1x1(n_feats + step, n_feats), leaky_relu())

    @staticmethod
    def unit(widths: list[int], grouped: int, groups: int) -> nn.Sequential:
        """Return three 3x3 convolutions with activations; the one with the number ``grouped`` has groups."""
        layers: list[nn.Module] = []
        for index in range(3):
            conv = conv3x3(widths[index], widths[index + 1], groups=groups if index == grouped else 1)
            layers += [conv, leaky_relu()]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``(N, n_feats, H, W)``; the output has the same shape."""
        lower = self.lower(x)
        short = torch.cat([x, lower[:, : self.distilled]], dim=1)
        out: Tensor = self.compress(self.upper(lower[:, self.distilled :]) + short)
        return out


class IDN(LumaNetwork):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
        n_blocks: Distillation blocks.
    """

    name = "idn"
    kernel_size = 17

    def __init__(self, scale: int = 4, n_feats: int = 64, n_blocks: int = 4) -> None:
        super().__init__(scale)
        self.head = nn.Sequential(conv3x3(1, n_feats), leaky_relu(), conv3x3(n_feats, n_feats), leaky_relu())
        self.blocks = nn.Sequential(*(Block(n_feats, n_feats // 4, 4) for _ in range(n_blocks)))
        self.deconv = nn.ConvTranspose2d(
            n_feats, 1, self.kernel_size, stride=scale, padding=self.kernel_size // 2, output_padding=scale - 1
        )

    def upscale(self, luma: Tensor) -> Tensor:
        """Upscale luma ``(N, 1, H, W)``."""
        out: Tensor = self.deconv(self.blocks(self.head(luma))) + self.bicubic(luma)
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None or 0 stands for an absent tensor."""
    return {
        "scale": bicubic_scale(state),
        "n_feats": out_channels(state, "head.0.weight"),
        "n_blocks": count(state, r"blocks\.\d+\.compress\.0\.weight"),
    }


ARCHITECTURE = Architecture(
    name=IDN.name,
    title="IDN",
    paper="Hui et al., CVPR 2018",
    data_range=IDN.data_range,
    scales=(2, 3, 4),
    inference=IDN,
    read_sizes=read_sizes,
)
