"""The asymmetric convolution block with BatchNorm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fmen_core.blocks.branches import pad_kernel
from fmen_core.blocks.layers import Kernel, conv3x3, kernel_of
from fmen_core.blocks.normalization import fold_bn_after, set_statistics
from fmen_core.blocks.reparameterizable import ConvStatistics, ReparamConv2d, Statistics


class NormalizedACB(ReparamConv2d):
    """Asymmetric convolution block: 3x3, 1x3 and 3x1, each followed by its own BatchNorm.

    In training mode the BatchNorms need the output of each branch, so that the block runs layer by layer. In eval mode
    it equals one convolution.

    Source: Ding et al., "ACNet: Strengthening the Kernel Skeletons for Powerful CNN via Asymmetric Convolution Blocks",
    ICCV 2019, section 3.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv3x3 = conv3x3(in_channels, out_channels, bias=False)
        self.norm3x3 = nn.BatchNorm2d(out_channels)
        self.conv1x3 = nn.Conv2d(in_channels, out_channels, (1, 3), padding=(0, 1), bias=False)
        self.norm1x3 = nn.BatchNorm2d(out_channels)
        self.conv3x1 = nn.Conv2d(in_channels, out_channels, (3, 1), padding=(1, 0), bias=False)
        self.norm3x1 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Run layer by layer in training mode, and as one convolution in eval mode."""
        return self.expanded(x) if self.training else super().forward(x)

    def expanded(self, x: Tensor) -> Tensor:
        """Run every branch and add the results."""
        out: Tensor = self.norm3x3(self.conv3x3(x)) + self.norm1x3(self.conv1x3(x)) + self.norm3x1(self.conv3x1(x))
        return out

    def kernel_and_bias(self, dtype: torch.dtype | None = None) -> Kernel:
        """Return the sum of the branches' kernels with the BatchNorms' running statistics folded in."""
        branches = ((self.conv3x3, self.norm3x3), (self.conv1x3, self.norm1x3), (self.conv3x1, self.norm3x1))
        weights, biases = [], []
        for conv, norm in branches:
            weight = conv.weight.to(dtype or conv.weight.dtype)
            folded, bias = fold_bn_after((weight, weight.new_zeros(len(weight))), norm)
            weights.append(pad_kernel(folded))
            biases.append(bias)
        return torch.stack(weights).sum(0), torch.stack(biases).sum(0)

    @torch.no_grad()
    def expand_from(self, fused: nn.Module, statistics: ConvStatistics) -> None:
        """Copy the kernel into the 3x3 branch, whose BatchNorm returns its input on typical images.

        The BatchNorms of the other branches start at zero, so that the block is the same function in training mode, as
        far as a batch has the given statistics.
        """
        conv = fused.get_submodule(self.fused_name)
        weight, bias = kernel_of(conv)
        mean, var, eps = statistics[conv][1]
        self.conv3x3.weight.copy_(weight)
        set_statistics(self.norm3x3, Statistics(mean - bias, var, eps), identity=True)
        self.norm3x3.bias.add_(bias)
        for norm in (self.norm1x3, self.norm3x1):
            nn.init.zeros_(norm.weight)
            nn.init.zeros_(norm.bias)
