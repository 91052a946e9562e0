"""Branches of re-parameterizable blocks: two layers that equal one zero-padded 3x3 convolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.blocks.layers import Kernel, conv1x1, kernel_of


def pad_with(x: Tensor, border: Tensor) -> Tensor:
    """Add a border of one pixel with the value ``border`` ``(C,)`` to ``(N, C, H, W)``."""
    border = border.view(1, -1, 1, 1)
    return F.pad(x - border, (1, 1, 1, 1)) + border


class PointwiseConv(nn.Module):
    """A 1x1 and a 3x3 convolution; equals one zero-padded 3x3 convolution.

    Between them, a border is filled with the bias of the 1x1 convolution, its output for a zero pixel.

    Args:
        in_channels: Channels of the input.
        mid_channels: Channels between the convolutions.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1x1 = conv1x1(in_channels, mid_channels)
        self.conv3x3 = nn.Conv2d(mid_channels, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Run both convolutions."""
        out: Tensor = self.conv3x3(pad_with(self.conv1x1(x), kernel_of(self.conv1x1)[1]))
        return out

    def kernel_and_bias(self, dtype: torch.dtype | None = None) -> Kernel:
        """Return the merged 3x3 kernel."""
        first, first_bias = kernel_of(self.conv1x1, dtype)
        second, second_bias = kernel_of(self.conv3x3, dtype)
        weight = torch.einsum("omhw,mi->oihw", second, first.flatten(1))
        return weight, second.sum((2, 3)) @ first_bias + second_bias


class PointwiseFilter(nn.Module):
    """A 1x1 convolution and a fixed 3x3 filter on each channel; equals one zero-padded 3x3 convolution.

    A learned scale and a learned bias follow the filter. The convolution has no bias: a filter multiplies a constant by
    the sum of its values, which changes nothing but the bias behind it.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        values: The filter, three rows of three numbers.
    """

    filter: Tensor

    def __init__(self, in_channels: int, out_channels: int, values: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.conv1x1 = conv1x1(in_channels, out_channels, bias=False)
        self.scale = nn.Parameter(torch.ones(out_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("filter", torch.tensor(values), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Run the convolution and the filter."""
        weight = self.scale.view(-1, 1, 1, 1) * self.filter
        return F.conv2d(self.conv1x1(x), weight, self.bias, padding=1, groups=len(weight))

    def kernel_and_bias(self, dtype: torch.dtype | None = None) -> Kernel:
        """Return the merged 3x3 kernel."""
        weight, scale, values, bias = (
            tensor.to(dtype or tensor.dtype) for tensor in (self.conv1x1.weight, self.scale, self.filter, self.bias)
        )
        return weight * (scale.view(-1, 1, 1, 1) * values), bias


def branch_kernel(branch: nn.Module, dtype: torch.dtype | None) -> Kernel:
    """Return the kernel of a zero-padded convolution, or of a pair of layers, as that of a 3x3 convolution."""
    if isinstance(branch, PointwiseConv | PointwiseFilter):
        weight, bias = branch.kernel_and_bias(dtype)
    else:
        weight, bias = kernel_of(branch, dtype)
    return pad_kernel(weight), bias


def pad_kernel(weight: Tensor) -> Tensor:
    """Pad the weight of a convolution of 1 or 3 pixels per side to that of a 3x3 convolution."""
    rows, columns = ((3 - size) // 2 for size in weight.shape[2:])
    return F.pad(weight, (columns, columns, rows, rows))
