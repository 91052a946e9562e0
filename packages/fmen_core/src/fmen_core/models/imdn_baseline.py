"""IMDN in the version that is the baseline of the NTIRE 2022 challenge on efficient super-resolution.

The simplified information multi-distillation network (Hui et al., "Lightweight Image Super-Resolution with Information
Multi-distillation Network", ACM MM 2019) that won the AIM 2019 challenge on constrained super-resolution: IMDN without
channel attention and without the fusion of all blocks, 8 blocks in a chain.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, count, out_channels, shuffle_scale
from fmen_core.blocks.distillation import split_off
from fmen_core.blocks.layers import Shortcut, conv1x1, conv3x3, leaky_relu, pixel_shuffle_tail


class Block(nn.Module):
    """Four convolutions, each of which distils a quarter of the channels; a fifth fuses them; a shortcut around all."""

    def __init__(self, n_feats: int) -> None:
        super().__init__()
        self.distilled = n_feats // 4
        passed_on = n_feats - self.distilled
        self.conv1 = nn.Sequential(conv3x3(n_feats, n_feats), leaky_relu())
        self.conv2 = nn.Sequential(conv3x3(passed_on, n_feats), leaky_relu())
        self.conv3 = nn.Sequential(conv3x3(passed_on, n_feats), leaky_relu())
        self.conv4 = conv3x3(passed_on, self.distilled)
        self.conv1x1 = conv1x1(4 * self.distilled, n_feats)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``(N, n_feats, H, W)``; the output has the same shape."""
        parts, rest = split_off(x, (self.conv1, self.conv2, self.conv3), self.distilled)
        last = self.conv4(rest)
        out: Tensor = x + self.conv1x1(torch.cat([*parts, last], dim=1))
        return out


class IMDNBaseline(nn.Module):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
        n_blocks: Number of distillation blocks.
    """

    name = "imdn-baseline"
    data_range = 1.0

    def __init__(self, scale: int = 4, n_feats: int = 64, n_blocks: int = 8) -> None:
        super().__init__()
        self.scale = scale
        blocks = (Block(n_feats) for _ in range(n_blocks))
        self.model = nn.Sequential(
            conv3x3(3, n_feats),
            Shortcut(nn.Sequential(*blocks, conv3x3(n_feats, n_feats))),
            *pixel_shuffle_tail(n_feats, scale),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        out: Tensor = self.model(x)
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    return {
        "scale": shuffle_scale(state, "model.2.weight"),
        "n_feats": out_channels(state, "model.0.weight"),
        "n_blocks": count(state, r"model\.1\.sub\.\d+\.conv1x1\.weight"),
    }


ARCHITECTURE = Architecture(
    name=IMDNBaseline.name,
    title="IMDN (baseline)",
    paper="Hui et al., ACM MM 2019, simplified; winner of AIM 2019, baseline of NTIRE 2022",
    data_range=IMDNBaseline.data_range,
    scales=(2, 3, 4),
    inference=IMDNBaseline,
    read_sizes=read_sizes,
)
