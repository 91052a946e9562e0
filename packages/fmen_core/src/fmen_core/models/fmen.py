"""FMEN: the training form, and the architecture of both forms.

In the training form every 3x3 convolution of an ERB is an RRRB or another block that equals one convolution, and the
attention blocks have BatchNorms. The inference form, ``fmen_core.fmen_deploy.FMEN``, has plain convolutions; it is the
same for all blocks.

Source: Du et al., "Fast and Memory-Efficient Network Towards Efficient Image Super-Resolution", NTIRE 2022, section 3.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, count, out_channels, shuffle_scale
from fmen_core.blocks.attention import HFAB
from fmen_core.blocks.by_name import BLOCKS
from fmen_core.blocks.layers import conv3x3, pixel_shuffle_tail
from fmen_core.blocks.reparameterizable import ReparamConv2d
from fmen_core.fmen_deploy import FMEN, SLOPE, VARIANTS, variant_name

MARKS = {
    "rrrb": "expand_conv.weight",
    "ecb": "conv1x1_laplacian.scale",
    "dbb": "conv1x1_average.scale",
    "acb-bn": "norm1x3.weight",
    "acb": "conv1x3.weight",
    "repvgg": "conv1x1.weight",
    "bases": "bases.weight",
    "plain": "conv3x3.weight",
}
"""A parameter of each block of the training form that the blocks below it do not have."""

EXPANDED = {"rrrb": "expand_conv.weight", "ecb": "conv1x1_3x3.conv1x1.weight", "bases": "bases.weight"}
"""The weight with ``ratio`` times as many output channels as the block has."""


def make_block(name: str, channels: int, ratio: int) -> ReparamConv2d:
    """Return a block whose merged convolution has the published name.

    Raises:
        ValueError: There is no such block.
    """
    if name not in BLOCKS:
        raise ValueError(f"there is no block {name!r}; choose one of {', '.join(BLOCKS)}")
    block = BLOCKS[name](channels, ratio)
    block.fused_name = "rep_conv"
    return block


class ERB(nn.Module):
    """Enhanced residual block: two blocks with a LeakyReLU in between; ``(N, C, H, W)`` to the same shape.

    Args:
        channels: C.
        ratio: Expansion ratio of RRRB and ECB.
        block: One of ``fmen_core.blocks.by_name.BLOCKS``.
    """

    def __init__(self, channels: int, ratio: int = 2, block: str = "rrrb") -> None:
        super().__init__()
        self.conv1 = make_block(block, channels, ratio)
        self.conv2 = make_block(block, channels, ratio)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        out: Tensor = self.conv2(F.leaky_relu(self.conv1(x), SLOPE, inplace=True))
        return out


class FMENTraining(nn.Module):
    """Fast and memory-efficient network, training form.

    Maps RGB ``(N, 3, H, W)`` in ``[0, 255]`` to ``(N, 3, scale*H, scale*W)`` in the same range. The defaults are
    FMEN-S. ``fmen_core.reparameterize`` converts it to ``fmen_core.FMEN``.

    Args:
        scale: Upscaling factor: 2, 3 or 4.
        n_feats: Channels of the trunk.
        mid_feats: Channels of the attention branches; the first branch is 4 channels narrower.
        down_blocks: Pairs of ERB and HFAB.
        up_blocks: ERBs in each HFAB, ``down_blocks + 1`` numbers.
        ratio: Expansion ratio of RRRB and ECB; number of filters of ``"bases"``.
        block: What the ERBs consist of: ``"rrrb"``, ``"ecb"``, ``"repvgg"``, ``"acb"``, ``"dbb"``, ``"plain"``,
            ``"acb-bn"`` or ``"bases"``.
    """

    data_range = 255.0

    def __init__(
        self,
        scale: int = 4,
        n_feats: int = 50,
        mid_feats: int = 16,
        down_blocks: int = 4,
        up_blocks: Sequence[int] = (2, 1, 1, 1, 1),
        ratio: int = 2,
        block: str = "rrrb",
    ) -> None:
        super().__init__()

        def hfab(channels: int, blocks: int) -> HFAB:
            return HFAB(n_feats, channels, lambda: nn.Sequential(*(ERB(channels, ratio, block) for _ in range(blocks))))

        self.scale = scale
        self.name = variant_name(n_feats, mid_feats, down_blocks, up_blocks)
        self.head = conv3x3(3, n_feats)
        self.warmup = nn.Sequential(conv3x3(n_feats, n_feats), hfab(mid_feats - 4, up_blocks[0]))
        self.ERBs = nn.ModuleList(ERB(n_feats, ratio, block) for _ in range(down_blocks))
        self.HFABs = nn.ModuleList(hfab(mid_feats, up_blocks[i + 1]) for i in range(down_blocks))
        self.lr_conv = conv3x3(n_feats, n_feats)
        self.tail = pixel_shuffle_tail(n_feats, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale ``(N, 3, H, W)`` to ``(N, 3, scale*H, scale*W)``."""
        shallow = self.head(x)
        deep = self.warmup(shallow)
        for erb, hfab in zip(self.ERBs, self.HFABs, strict=True):
            deep = hfab(erb(deep))
        out: Tensor = self.tail(self.lr_conv(deep) + shallow)
        return out


def read_sizes(state: StateDict, name: str = "fmen") -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor.

    Args:
        state: A state dict.
        name: A name in ``VARIANTS`` accepts its sizes, ``"fmen"`` all sizes without another name.
    """
    block = next((kind for kind, mark in MARKS.items() if f"ERBs.0.conv1.{mark}" in state), None)
    first = rf"\.\d+\.conv1\.{re.escape(MARKS[block] if block else 'rep_conv.weight')}"
    down_blocks = count(state, rf"ERBs{first}")
    branches = ["warmup.1.convs", *(f"HFABs.{i}.convs" for i in range(down_blocks))]
    sizes: dict[str, Any] = {
        "n_feats": out_channels(state, "head.weight"),
        "mid_feats": out_channels(state, "HFABs.0.squeeze.weight"),
        "down_blocks": down_blocks,
        "up_blocks": tuple(count(state, re.escape(branch) + first) for branch in branches),
    }
    if next((other for other, known in VARIANTS.items() if known == sizes), "fmen") != name:
        return {"scale": None}
    form = "training" if block else "inference"
    if block:
        sizes["block"] = block
    if block in EXPANDED:
        expanded = out_channels(state, f"ERBs.0.conv1.{EXPANDED[block]}") or 0
        sizes["ratio"] = expanded // (sizes["n_feats"] or 1)
    return {"scale": shuffle_scale(state, "tail.0.weight"), "form": form, **sizes}


ARCHITECTURES = tuple(
    Architecture(
        name=name,
        title=name.upper(),
        paper="Du et al., NTIRE 2022, team NJU_Jet",
        data_range=FMEN.data_range,
        scales=(2, 3, 4),
        inference=FMEN,
        training=FMENTraining,
        defaults=sizes,
        read_sizes=partial(read_sizes, name=name),
    )
    for name, sizes in VARIANTS.items()
)
"""FMEN-S with 50 and with 48 channels, and FMEN with the sizes of the paper or any others."""
