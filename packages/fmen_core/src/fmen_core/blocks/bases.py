"""Filters that are sums of filters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fmen_core.blocks.layers import Kernel, conv3x3, kernel_of
from fmen_core.blocks.reparameterizable import ReparamConv2d


class FilterBases(ReparamConv2d):
    """Filter decomposition: a 3x3 convolution with the filter ``F = sum_i pi_i k_i``; ``pi_i`` and ``k_i`` are learned.

    The first coefficient starts at 1 and the others at 0: a basis that is added does not change the output. Start a run
    with more bases from the weights of one with fewer; their sum is then the first basis.

    Source: Zhang et al., "AIM 2020 Challenge on Efficient Super-Resolution: Methods and Results", ECCV Workshops 2020.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        bases: Number of filters, 1 or more.
    """

    def __init__(self, in_channels: int, out_channels: int, bases: int = 2) -> None:
        super().__init__()
        if bases < 1:
            raise ValueError(f"bases is {bases}; choose 1 or more")
        self.bases = conv3x3(in_channels, bases * out_channels)
        self.coefficients = nn.Parameter(torch.eye(bases)[0].clone())

    def expanded(self, x: Tensor) -> Tensor:
        """Convolve with every basis, and add the results times the coefficients."""
        outputs = torch.stack(self.bases(x).chunk(len(self.coefficients), dim=1))
        out: Tensor = torch.tensordot(self.coefficients, outputs, 1)
        return out

    def kernel_and_bias(self, dtype: torch.dtype | None = None) -> Kernel:
        """Return the sum of the bases times their coefficients."""
        weight, bias = kernel_of(self.bases, dtype)
        coefficients = self.coefficients.to(weight.dtype)
        weights, biases = (torch.stack(tensor.chunk(len(coefficients))) for tensor in (weight, bias))
        return torch.tensordot(coefficients, weights, 1), coefficients @ biases

    def add_to_weight(self, weight: Tensor) -> None:
        """Add to the first basis, whose coefficient is not zero in a fresh block."""
        self.bases.weight[: len(weight)] += weight / self.coefficients[0]

    def add_to_bias(self, bias: Tensor) -> None:
        """Add to the bias of the first basis."""
        parameter = kernel_of(self.bases)[1]
        parameter[: len(bias)] += bias / self.coefficients[0]
