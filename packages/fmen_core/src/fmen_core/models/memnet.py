"""MemNet: memory blocks of recursions, whose results and those of earlier blocks pass through a gate.

Tai, Yang, Liu and Xu, "MemNet: A Persistent Memory Network for Image Restoration", ICCV 2017; the basic network M6R6.
The recursions of a block share their weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, count, out_channels
from fmen_core.blocks.layers import Shortcut, conv1x1, conv3x3, preactivated
from fmen_core.blocks.luma import LumaNetwork, bicubic_scale


class MemoryBlock(nn.Module):
    """Memory block (section 3.2): recursions with a shortcut each, and a gate over all that has been computed.

    Args:
        n_feats: Channels of the features.
        n_recursions: Applications of the unit.
        n_memories: Outputs of the stem and of earlier blocks that the gate takes.
    """

    def __init__(self, n_feats: int, n_recursions: int, n_memories: int) -> None:
        super().__init__()
        self.n_recursions = n_recursions
        convs = preactivated(conv3x3(n_feats, n_feats)), preactivated(conv3x3(n_feats, n_feats))
        self.unit: nn.Module = Shortcut(nn.Sequential(*convs))
        self.gate = preactivated(conv1x1((n_recursions + n_memories) * n_feats, n_feats))

    def forward(self, x: Tensor, memories: list[Tensor]) -> Tensor:
        """Apply the block to ``(N, n_feats, H, W)``; ``memories`` and the output have the same shape."""
        short = []
        for _ in range(self.n_recursions):
            x = self.unit(x)
            short.append(x)
        out: Tensor = self.gate(torch.cat([*short, *memories], dim=1))
        return out


class MemNet(LumaNetwork):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
        n_blocks: Memory blocks.
        n_recursions: Recursions in each.
    """

    name = "memnet"

    def __init__(self, scale: int = 4, n_feats: int = 64, n_blocks: int = 6, n_recursions: int = 6) -> None:
        super().__init__(scale)
        self.head = preactivated(conv3x3(1, n_feats))
        self.blocks = nn.ModuleList(MemoryBlock(n_feats, n_recursions, block + 1) for block in range(n_blocks))
        self.tail = preactivated(conv3x3(n_feats, 1))

    def upscale(self, luma: Tensor) -> Tensor:
        """Upscale luma ``(N, 1, H, W)``."""
        enlarged: Tensor = self.bicubic(luma)
        memories: list[Tensor] = [self.head(enlarged)]
        for block in self.blocks:
            memories.append(block(memories[-1], memories))
        out: Tensor = self.tail(memories[-1]) + enlarged
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None or 0 stands for an absent tensor."""
    gate = state.get("blocks.0.gate.conv.weight")
    n_feats = out_channels(state, "head.conv.weight")
    return {
        "scale": bicubic_scale(state),
        "n_feats": n_feats,
        "n_blocks": count(state, r"blocks\.\d+\.gate\.conv\.weight"),
        "n_recursions": gate.shape[1] // n_feats - 1 if gate is not None and gate.dim() == 4 and n_feats else None,
    }


ARCHITECTURE = Architecture(
    name=MemNet.name,
    title="MemNet",
    paper="Tai et al., ICCV 2017",
    data_range=MemNet.data_range,
    scales=(2, 3, 4),
    inference=MemNet,
    read_sizes=read_sizes,
)
