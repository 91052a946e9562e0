"""rainbow's IMDN+ in the NTIRE 2022 challenge on efficient super-resolution (team 39).

IMDN (Hui et al., ACM MM 2019) with increasingly narrow convolutions: each of six distils a sixth of the channels; the
activation is SiLU. The challenge's report (Li et al., "NTIRE 2022 Challenge on Efficient Super-Resolution: Methods
and Results", CVPR Workshops 2022) describes it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, count, out_channels, shuffle_scale
from fmen_core.blocks.distillation import split_off
from fmen_core.blocks.layers import Shortcut, conv1x1, conv3x3, pixel_shuffle_tail


class Block(nn.Module):
    """Six convolutions with 6/6, 5/6, ... 1/6 of the channels; a shortcut around all."""

    def __init__(self, n_feats: int) -> None:
        super().__init__()
        self.distilled = n_feats // 6
        self.c1 = conv3x3(n_feats, n_feats)
        self.c2 = conv3x3(5 * self.distilled, 5 * self.distilled)
        self.c3 = conv3x3(4 * self.distilled, 4 * self.distilled)
        self.c4 = conv3x3(3 * self.distilled, 3 * self.distilled)
        self.c5 = conv3x3(2 * self.distilled, 2 * self.distilled)
        self.c6 = conv3x3(self.distilled, self.distilled)
        self.c7 = conv1x1(6 * self.distilled, n_feats)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to ``(N, n_feats, H, W)``; the output has the same shape."""
        parts, rest = split_off(x, (self.c1, self.c2, self.c3, self.c4, self.c5), self.distilled, self.act)
        last = self.act(self.c6(rest))
        joined = torch.cat([*parts, last], dim=1)
        out: Tensor = self.c7(joined) + x
        return out


class IMDNPlus(nn.Module):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features, a multiple of 6.
        n_blocks: Number of distillation blocks.
    """

    name = "imdn-plus"
    data_range = 1.0

    def __init__(self, scale: int = 4, n_feats: int = 36, n_blocks: int = 8) -> None:
        super().__init__()
        self.scale = scale
        blocks = (Block(n_feats) for _ in range(n_blocks))
        self.FEM = nn.Sequential(
            conv3x3(3, n_feats),
            Shortcut(nn.Sequential(*blocks, conv3x3(n_feats, n_feats))),
        )
        self.RM = pixel_shuffle_tail(n_feats, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        out: Tensor = self.RM(self.FEM(x))
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    return {
        "scale": shuffle_scale(state, "RM.0.weight"),
        "n_feats": out_channels(state, "FEM.0.weight"),
        "n_blocks": count(state, r"FEM\.1\.sub\.\d+\.c7\.weight"),
    }


ARCHITECTURE = Architecture(
    name=IMDNPlus.name,
    title="rainbow (IMDN+)",
    paper="NTIRE 2022, team 39 rainbow; after Hui et al., ACM MM 2019",
    data_range=IMDNPlus.data_range,
    scales=(2, 3, 4),
    inference=IMDNPlus,
    read_sizes=read_sizes,
)
