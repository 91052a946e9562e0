"""FMEN with single parts of it changed or left out, to measure what each of them contributes.

``fmen train --model .../ablated_fmen.py:AblatedFMEN`` trains it; ``fmen reproduce ablations`` compares the variants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.blocks.attention import HFAB
from fmen_core.blocks.layers import conv3x3, kernel_of, pixel_shuffle_tail
from fmen_core.blocks.normalization import conv_after_bn
from fmen_core.blocks.reparameterizable import set_kernel
from fmen_core.fmen_deploy import SLOPE
from fmen_core.models.fmen import ERB


class PlainHFAB(nn.Module):
    """HFAB without BatchNorm: what it is after folding.

    Args:
        n_feats: Channels of the features.
        mid_feats: Channels of the branch.
        convs: Makes the module in the middle of the branch.
        sigmoid: Whether the branch ends with a sigmoid; otherwise its output is the factor itself.
    """

    def __init__(self, n_feats: int, mid_feats: int, convs: Callable[[], nn.Module], *, sigmoid: bool = True) -> None:
        super().__init__()
        self.sigmoid = sigmoid
        self.squeeze = conv3x3(n_feats, mid_feats)
        self.convs = convs()
        self.excitate = conv3x3(mid_feats, n_feats)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x`` ``(N, n_feats, H, W)`` by the branch's output."""
        branch = self.convs(F.leaky_relu(self.squeeze(x), SLOPE, inplace=True))
        factor: Tensor = self.excitate(F.leaky_relu(branch, SLOPE, inplace=True))
        if self.sigmoid:
            factor = factor.sigmoid_()
        return x * factor if factor.requires_grad else factor.mul_(x)


class NormalizedHFAB(HFAB):
    """HFAB with BatchNorm, without the sigmoid or with another padding.

    Args:
        n_feats, mid_feats, convs, sigmoid: As for :class:`PlainHFAB`.
        zero_padding: Pad the normalized features with zeros instead of the BatchNorm's shift. Folding is then not exact
            at the border: padding with zeros behind a BatchNorm is not padding with zeros in front of it.
    """

    def __init__(
        self,
        n_feats: int,
        mid_feats: int,
        convs: Callable[[], nn.Module],
        *,
        sigmoid: bool = True,
        zero_padding: bool = False,
    ) -> None:
        super().__init__(n_feats, mid_feats, convs)
        self.sigmoid, self.zero_padding = sigmoid, zero_padding
        if not sigmoid:  # an untrained factor is 1: products of factors far from 1 would diverge
            nn.init.zeros_(self.bn3.weight)
            nn.init.ones_(self.bn3.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x`` by the branch's output."""
        branch = self.convs(F.leaky_relu(self.normalized_conv(x, self.bn1, self.squeeze), SLOPE, inplace=True))
        branch = F.leaky_relu(branch, SLOPE, inplace=True)
        factor = self.bn3(self.normalized_conv(branch, self.bn2, self.excitate))
        return x * (torch.sigmoid(factor) if self.sigmoid else factor)

    def normalized_conv(self, x: Tensor, bn: nn.BatchNorm2d, conv: nn.Conv2d) -> Tensor:
        """Return the convolution of the normalized and padded features."""
        if not self.zero_padding:
            return conv_after_bn(x, bn, conv)
        weight, bias = kernel_of(conv)
        return F.conv2d(bn(x), weight, bias, padding=1)

    @torch.no_grad()
    def fused(self) -> nn.Module:
        """Return the form without BatchNorms."""
        channels = self.bn1.num_features, self.bn2.num_features
        block = PlainHFAB(*channels, lambda: self.convs, sigmoid=self.sigmoid).to(self.squeeze.weight)
        for conv, kernel in zip((block.squeeze, block.excitate), self.folded(), strict=True):
            set_kernel(conv, kernel)
        return block


class AblatedFMEN(nn.Module):
    """FMEN-S with single parts changed; RGB in ``[0, 255]``. The defaults are FMEN-S in its training form.

    Args:
        scale: Upscaling factor: 2, 3 or 4.
        n_feats: Channels of the trunk.
        mid_feats: Channels of the attention branches; the first branch is 4 channels narrower.
        down_blocks: ERBs of the trunk.
        up_blocks: ERBs in each HFAB: of the first, then of those in the trunk.
        every: ERBs of the trunk in front of each HFAB.
        norm: Whether the branches have BatchNorms.
        sigmoid: Whether the branches end with a sigmoid.
        zero_padding: Pad normalized features with zeros instead of the BatchNorm's shift.
        shortcuts: Add its input to the output of each ERB of the trunk.

    Raises:
        ValueError: The numbers of ERBs and HFABs do not fit.
    """

    data_range = 255.0

    def __init__(
        self,
        scale: int = 4,
        n_feats: int = 50,
        mid_feats: int = 16,
        down_blocks: int = 4,
        up_blocks: Sequence[int] = (2, 1, 1, 1, 1),
        *,
        every: int = 1,
        norm: bool = True,
        sigmoid: bool = True,
        zero_padding: bool = False,
        shortcuts: bool = False,
    ) -> None:
        super().__init__()
        if down_blocks != every * (len(up_blocks) - 1):
            raise ValueError(f"{down_blocks} ERBs, {every} per HFAB, need {down_blocks // every + 1} up_blocks")

        def hfab(channels: int, blocks: int) -> nn.Module:
            def convs() -> nn.Module:
                return nn.Sequential(*(ERB(channels) for _ in range(blocks)))

            if not norm:
                return PlainHFAB(n_feats, channels, convs, sigmoid=sigmoid)
            return NormalizedHFAB(n_feats, channels, convs, sigmoid=sigmoid, zero_padding=zero_padding)

        self.scale, self.every, self.shortcuts = scale, every, shortcuts
        self.head = conv3x3(3, n_feats)
        self.warmup = nn.Sequential(conv3x3(n_feats, n_feats), hfab(mid_feats - 4, up_blocks[0]))
        self.ERBs = nn.ModuleList(ERB(n_feats) for _ in range(down_blocks))
        self.HFABs = nn.ModuleList(hfab(mid_feats, blocks) for blocks in up_blocks[1:])
        self.lr_conv = conv3x3(n_feats, n_feats)
        self.tail = pixel_shuffle_tail(n_feats, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale ``(N, 3, H, W)`` to ``(N, 3, scale*H, scale*W)``."""
        shallow = self.head(x)
        deep = self.warmup(shallow)
        for place, erb in enumerate(self.ERBs, 1):
            deep = erb(deep) + deep if self.shortcuts else erb(deep)
            if place % self.every == 0:
                deep = self.HFABs[place // self.every - 1](deep)
        out: Tensor = self.tail(self.lr_conv(deep) + shallow)
        return out
