"""FMEN in its inference form: 3x3 convolutions, LeakyReLU, and one attention product per block.

This file is the model file of a challenge submission: it imports torch alone, and runs on Python 3.8 and torch 1.12.
The parameter names are those of the authors' release, whose weights load unchanged.

Source: Du et al., "Fast and Memory-Efficient Network Towards Efficient Image Super-Resolution", NTIRE 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.1
"""Negative slope of every LeakyReLU."""

VARIANTS: dict[str, dict[str, Any]] = {
    "fmen-s": {"n_feats": 50, "mid_feats": 16, "down_blocks": 4, "up_blocks": (2, 1, 1, 1, 1)},
    "fmen-s48": {"n_feats": 48, "mid_feats": 16, "down_blocks": 4, "up_blocks": (2, 1, 1, 1, 1)},
    "fmen": {"n_feats": 64, "mid_feats": 32, "down_blocks": 4, "up_blocks": (3, 2, 2, 2, 2)},
}
"""Sizes of the paper's networks, and of FMEN-S with channels that fill three vectors of 16 numbers."""


def variant_name(n_feats: int, mid_feats: int, down_blocks: int, up_blocks: Sequence[int]) -> str:
    """Return the name of the network with these sizes; ``"fmen"`` stands for all sizes without a name of their own.

    Raises:
        ValueError: There is no such network.
    """
    if len(up_blocks) != down_blocks + 1:
        raise ValueError(f"up_blocks has {len(up_blocks)} numbers; {down_blocks} down_blocks need {down_blocks + 1}")
    if mid_feats <= 4:
        raise ValueError(f"mid_feats is {mid_feats}; the first branch is 4 channels narrower, so that it must be > 4")
    sizes = {"n_feats": n_feats, "mid_feats": mid_feats, "down_blocks": down_blocks, "up_blocks": tuple(up_blocks)}
    return next((name for name, known in VARIANTS.items() if known == sizes), "fmen")


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Return a zero-padded 3x3 convolution; height and width are unchanged."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)


class RRRB(nn.Module):
    """Residual-in-residual re-parameterizable block, merged to one convolution; ``(N, C, H, W)`` to the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rep_conv = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        out: Tensor = self.rep_conv(x)
        return out


class ERB(nn.Module):
    """Enhanced residual block: two convolutions with a LeakyReLU in between; ``(N, C, H, W)`` to the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = RRRB(channels)
        self.conv2 = RRRB(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        out: Tensor = self.conv2(F.leaky_relu(self.conv1(x), SLOPE, inplace=True))
        return out


class HFAB(nn.Module):
    """High-frequency attention block: ``x`` times an attention map from a narrow branch; ``(N, C, H, W)`` to the same.

    Args:
        n_feats: Channels of the features.
        mid_feats: Channels of the branch.
        blocks: ERBs in the branch.
    """

    def __init__(self, n_feats: int, mid_feats: int, blocks: int) -> None:
        super().__init__()
        self.squeeze = conv3x3(n_feats, mid_feats)
        self.convs = nn.Sequential(*(ERB(mid_feats) for _ in range(blocks)))
        self.excitate = conv3x3(mid_feats, n_feats)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        branch = F.leaky_relu(self.squeeze(x), SLOPE, inplace=True)
        branch = F.leaky_relu(self.convs(branch), SLOPE, inplace=True)
        attention: Tensor = self.excitate(branch).sigmoid_()
        # The product is written into the attention map, unless a gradient needs the map.
        return x * attention if attention.requires_grad else attention.mul_(x)


class FMEN(nn.Module):
    """Fast and memory-efficient network, inference form.

    Maps RGB ``(N, 3, H, W)`` in ``[0, 255]`` to ``(N, 3, scale*H, scale*W)`` in the same range. The defaults are
    FMEN-S.

    Args:
        scale: Upscaling factor: 2, 3 or 4.
        n_feats: Channels of the trunk.
        mid_feats: Channels of the attention branches; the first branch is 4 channels narrower.
        down_blocks: Pairs of ERB and HFAB.
        up_blocks: ERBs in each HFAB, ``down_blocks + 1`` numbers.
    """

    data_range = 255.0

    def __init__(
        self,
        scale: int = 4,
        n_feats: int = 50,
        mid_feats: int = 16,
        down_blocks: int = 4,
        up_blocks: Sequence[int] = (2, 1, 1, 1, 1),
    ) -> None:
        super().__init__()
        self.scale = scale
        self.name = variant_name(n_feats, mid_feats, down_blocks, up_blocks)
        self.head = conv3x3(3, n_feats)
        self.warmup = nn.Sequential(conv3x3(n_feats, n_feats), HFAB(n_feats, mid_feats - 4, up_blocks[0]))
        self.ERBs = nn.ModuleList(ERB(n_feats) for _ in range(down_blocks))
        self.HFABs = nn.ModuleList(HFAB(n_feats, mid_feats, up_blocks[i + 1]) for i in range(down_blocks))
        self.lr_conv = conv3x3(n_feats, n_feats)
        self.tail = nn.Sequential(conv3x3(n_feats, 3 * scale**2), nn.PixelShuffle(scale))

    def forward(self, x: Tensor) -> Tensor:
        """Upscale ``(N, 3, H, W)`` to ``(N, 3, scale*H, scale*W)``."""
        shallow = self.head(x)
        deep: Tensor = self.warmup(shallow)
        for erb, hfab in zip(self.ERBs, self.HFABs):  # noqa: B905 - Python 3.8 has no strict=
            assert isinstance(erb, ERB)
            # The ERB convolution by convolution: a call of the block would hold its input until it returns.
            deep = F.leaky_relu(erb.conv1(deep), SLOPE, inplace=True)
            deep = erb.conv2(deep)
            deep = hfab(deep)
        deep = self.lr_conv(deep)
        deep += shallow
        del shallow
        assert isinstance(self.tail[0], nn.Conv2d)
        deep = deep.to(self.tail[0].weight.dtype)  # releases the features where only the tail is in float32
        for layer in self.tail:
            deep = layer(deep)
        return deep
