"""Blocks with a training form and a merged inference form; linear blocks that equal one convolution.

A linear block need not run layer by layer in training. By default (``collapsed``) each forward pass merges the block's
kernels into one, differentiably, and runs that single convolution: the same function and the same gradients, for a
third of the time and memory in FMEN (``tools/bench/reparam_blocks.py``). This is online re-parameterization. In eval
mode the kernels are merged in float64, as ``fmen_core.reparameterize`` merges them, so that both forms run the same
convolution.

The blocks of this file have no BatchNorm. RepVGG, ACB and DBB have one in each branch in their papers on
classification. It normalizes by the statistics of the branch's output, which a merged block does not compute, and
networks for super-resolution usually leave it out. RRRB and ECB have none in their papers. ``asymmetric.py`` has the
ACB with BatchNorm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.blocks.branches import PointwiseConv, PointwiseFilter, branch_kernel, pad_with
from fmen_core.blocks.layers import Kernel, conv1x1, conv3x3, kernel_of, named, no_autocast


class Statistics(NamedTuple):
    """Mean and variance of each channel, both ``(C,)``, and the constant that BatchNorm adds to the variance."""

    mean: Tensor
    var: Tensor
    eps: float


ConvStatistics = Mapping[nn.Module, tuple[Statistics, Statistics]]
"""The statistics of the input and the output of convolutions."""


class Reparameterizable(nn.Module):
    """Base class of blocks that have a training form and a merged inference form.

    Attributes:
        collapsed: Whether the block runs merged (the default) or layer by layer. The function is the same.
    """

    collapsed = True

    def fused(self) -> nn.Module:
        """Return the inference form, computed in float64 and rounded to the precision of the block."""
        raise NotImplementedError

    def expand_from(self, fused: nn.Module, statistics: ConvStatistics) -> None:
        """Set the parameters such that the block computes the same function as ``fused``, in eval mode.

        Args:
            fused: A block in the inference form.
            statistics: The statistics of the convolutions in ``fused`` on typical images.
        """
        raise NotImplementedError


def set_collapsed(model: nn.Module, collapsed: bool) -> None:
    """Run every block of ``model`` merged, or layer by layer."""
    for module in model.modules():
        if isinstance(module, Reparameterizable):
            module.collapsed = collapsed


def conv_with(x: Tensor, kernel: Kernel) -> Tensor:
    """Convolve with zero padding and unchanged height and width; the kernel is rounded to the precision of ``x``."""
    weight, bias = (parameter.to(x.dtype) for parameter in kernel)
    # A product of matrices may leave strides from which PyTorch derives another memory format for the output.
    return F.conv2d(x, weight.contiguous(), bias, padding=weight.shape[-1] // 2)


def conv_from(kernel: Kernel, like: Tensor) -> nn.Conv2d:
    """Return a zero-padded convolution with this kernel, in the precision and on the device of ``like``."""
    out_channels, in_channels, size, _ = kernel[0].shape
    conv = nn.Conv2d(in_channels, out_channels, size, padding=size // 2, device=like.device, dtype=like.dtype)
    set_kernel(conv, kernel)
    return conv


@torch.no_grad()
def set_kernel(conv: nn.Module, kernel: Kernel) -> None:
    """Copy weight and bias into a convolution, rounded to its precision."""
    for parameter, value in zip(kernel_of(conv), kernel, strict=True):
        parameter.copy_(value)


class ReparamConv2d(Reparameterizable):
    """Base class of linear blocks that equal one zero-padded convolution.

    A subclass implements :meth:`kernel_and_bias`, :meth:`expanded`, :meth:`add_to_weight` and :meth:`add_to_bias`.

    Attributes:
        fused_name: The name of the merged convolution below the block's own name; empty for no further level.
    """

    fused_name = ""

    def kernel_and_bias(self, dtype: torch.dtype | None = None) -> Kernel:
        """Return the merged kernel, differentiable in the parameters; computed in ``dtype``, by default in theirs."""
        raise NotImplementedError

    def expanded(self, x: Tensor) -> Tensor:
        """Run the block layer by layer."""
        raise NotImplementedError

    def add_to_weight(self, weight: Tensor) -> None:
        """Change the parameters in place such that the weight of the merged kernel grows by ``weight``, in float64."""
        raise NotImplementedError

    def add_to_bias(self, bias: Tensor) -> None:
        """Change the parameters in place such that the bias of the merged kernel grows by ``bias``, in float64."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Run the merged convolution, or the block layer by layer if ``collapsed`` is False."""
        if not self.collapsed:
            return self.expanded(x)
        # Products of kernels are cheap and their rounding error enters every pixel, so autocast does not apply to them.
        with no_autocast(x):
            kernel = self.kernel_and_bias(None if self.training else torch.float64)
        return conv_with(x, kernel)

    @torch.no_grad()
    def fused(self) -> nn.Module:
        """Return the merged convolution."""
        kernel = self.kernel_and_bias(torch.float64)
        conv = conv_from(kernel, next(self.parameters()))
        return named(**{self.fused_name: conv}) if self.fused_name else conv

    @torch.no_grad()
    def expand_from(self, fused: nn.Module, statistics: ConvStatistics) -> None:
        """Add to the parameters what the merged kernel lacks; the other parameters stay as they are.

        A freshly initialised block therefore stays in general position: no factor is zero, none repeats another.
        """
        weight, bias = kernel_of(fused.get_submodule(self.fused_name), torch.float64)
        self.add_to_weight(weight - self.kernel_and_bias(torch.float64)[0])
        self.add_to_bias(bias - self.kernel_and_bias(torch.float64)[1])


class RRRB(ReparamConv2d):
    """Residual-in-residual re-parameterizable block, ``(N, C, H, W)`` to the same shape (FMEN, equation 3).

    ``x + reduce(fea(pad(e)) + e)`` with ``e = expand(x)``. ``pad`` fills the border with ``expand``'s bias, which is
    the output of ``expand`` for a zero pixel, so that the block equals one zero-padded 3x3 convolution.

    Args:
        channels: C.
        ratio: Expansion ratio; 1 or more.
    """

    fused_name = "rep_conv"

    def __init__(self, channels: int, ratio: int = 2) -> None:
        super().__init__()
        self.expand_conv = conv1x1(channels, ratio * channels)
        self.fea_conv = nn.Conv2d(ratio * channels, ratio * channels, 3)
        self.reduce_conv = conv1x1(ratio * channels, channels)

    def expanded(self, x: Tensor) -> Tensor:
        """Run the three convolutions."""
        expanded = self.expand_conv(x)
        padded = pad_with(expanded, kernel_of(self.expand_conv)[1])
        out: Tensor = self.reduce_conv(self.fea_conv(padded) + expanded) + x
        return out

    def kernel_and_bias(self, dtype: torch.dtype | None = None) -> Kernel:
        """Return the merged 3x3 kernel ``reduce . (fea + identity) . expand + identity``."""
        expand, expand_bias = kernel_of(self.expand_conv, dtype)
        fea, fea_bias = kernel_of(self.fea_conv, dtype)
        reduce, reduce_bias = kernel_of(self.reduce_conv, dtype)
        expand, reduce = expand.flatten(1), reduce.flatten(1)
        wide, channels = expand.shape
        # reduce . fea for all nine taps, then . expand: (C, wide * 9) -> (C, 9, wide) -> (C, 9, C).
        left = (reduce @ fea.flatten(1)).view(channels, wide, 9).transpose(1, 2)
        kernel = (left @ expand).transpose(1, 2).reshape(channels, channels, 3, 3)
        identity = reduce @ expand + torch.eye(channels, dtype=fea.dtype, device=fea.device)
        kernel = kernel + F.pad(identity[..., None, None], (1, 1, 1, 1))
        response = fea.sum((2, 3)) @ expand_bias + fea_bias + expand_bias
        return kernel, reduce @ response + reduce_bias

    def add_to_weight(self, weight: Tensor) -> None:
        """Add the smallest change of ``fea`` that the pseudo-inverses of the 1x1 convolutions give."""
        reduce, expand = (
            torch.linalg.pinv(kernel_of(conv, torch.float64)[0].flatten(1))
            for conv in (self.reduce_conv, self.expand_conv)
        )
        self.fea_conv.weight += torch.einsum("ro,oihw,ie->rehw", reduce, weight, expand)

    def add_to_bias(self, bias: Tensor) -> None:
        """Add to ``reduce``'s bias."""
        parameter = kernel_of(self.reduce_conv)[1]
        parameter += bias


class ParallelConv(ReparamConv2d):
    """Base class of sums of parallel branches, ``(N, in_channels, H, W)`` to ``(N, out_channels, H, W)``.

    The child modules are the branches: zero-padded convolutions of at most 3x3, :class:`PointwiseConv` and
    :class:`PointwiseFilter`. One branch is a 3x3 convolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        identity: Whether the input is added to the sum.
    """

    def __init__(self, in_channels: int, out_channels: int, *, identity: bool = False) -> None:
        super().__init__()
        if identity and in_channels != out_channels:
            raise ValueError(f"a block from {in_channels} to {out_channels} channels has no identity branch")
        self.identity = identity
        self.conv3x3 = conv3x3(in_channels, out_channels)

    def expanded(self, x: Tensor) -> Tensor:
        """Run every branch and add the results."""
        first, *others = self.children()
        out: Tensor = first(x)
        for branch in others:
            out = out + branch(x)
        return out + x if self.identity else out

    def kernel_and_bias(self, dtype: torch.dtype | None = None) -> Kernel:
        """Return the sum of the branches' kernels, each padded to 3x3."""
        weights, biases = zip(*(branch_kernel(branch, dtype) for branch in self.children()), strict=True)
        weight, bias = torch.stack(weights).sum(0), torch.stack(biases).sum(0)
        if self.identity:
            identity = torch.eye(len(bias), dtype=weight.dtype, device=weight.device)
            weight = weight + F.pad(identity[..., None, None], (1, 1, 1, 1))
        return weight, bias

    def add_to_weight(self, weight: Tensor) -> None:
        """Add to the weight of the 3x3 branch."""
        self.conv3x3.weight += weight

    def add_to_bias(self, bias: Tensor) -> None:
        """Add to the bias of the 3x3 branch."""
        parameter = kernel_of(self.conv3x3)[1]
        parameter += bias


class PlainConv(ParallelConv):
    """A 3x3 convolution: the block without re-parameterization, for comparison."""


class RepVGG(ParallelConv):
    """RepVGG block: 3x3, 1x1 and, if the channels allow it, the identity.

    Source: Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021, section 3.2; without BatchNorm.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, identity=in_channels == out_channels)
        self.conv1x1 = conv1x1(in_channels, out_channels)


class ACB(ParallelConv):
    """Asymmetric convolution block: 3x3, 1x3 and 3x1.

    Source: Ding et al., "ACNet: Strengthening the Kernel Skeletons for Powerful CNN via Asymmetric Convolution Blocks",
    ICCV 2019, section 3; without BatchNorm.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels)
        self.conv1x3 = nn.Conv2d(in_channels, out_channels, (1, 3), padding=(0, 1))
        self.conv3x1 = nn.Conv2d(in_channels, out_channels, (3, 1), padding=(1, 0))


class DBB(ParallelConv):
    """Diverse branch block: 3x3, 1x1, 1x1 and 3x3, 1x1 and average pooling.

    The 1x1 convolution in front of the 3x3 one is initialised as the identity.

    Source: Ding et al., "Diverse Branch Block: Building a Convolution as an Inception-like Unit", CVPR 2021, section
    3.3; without BatchNorm.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels)
        self.conv1x1 = conv1x1(in_channels, out_channels)
        self.conv1x1_3x3 = PointwiseConv(in_channels, in_channels, out_channels)
        self.conv1x1_average = PointwiseFilter(in_channels, out_channels, [[1 / 9] * 3] * 3)
        nn.init.dirac_(self.conv1x1_3x3.conv1x1.weight)


class ECB(ParallelConv):
    """Edge-oriented convolution block: 3x3, 1x1 and 3x3, and 1x1 with a Sobel filter in x, in y, and a Laplacian.

    As in the published code, scales and biases of the filters are initialised with a standard deviation of 0.001. The
    published biases in front of the filters are left out. They have no effect, because each filter sums to zero.

    Source: Zhang et al., "Edge-oriented Convolution Block for Real-time Super Resolution on Mobile Devices", ACM MM
    2021, section 3.2.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        ratio: Channels between the 1x1 and the 3x3 convolution, as a multiple of ``out_channels``.
        identity: Whether the input is added to the sum.
    """

    FILTERS: Mapping[str, Sequence[Sequence[float]]] = {
        "sobel_x": ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0)),
        "sobel_y": ((1.0, 2.0, 1.0), (0.0, 0.0, 0.0), (-1.0, -2.0, -1.0)),
        "laplacian": ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0)),
    }

    def __init__(self, in_channels: int, out_channels: int, ratio: int = 2, *, identity: bool = False) -> None:
        super().__init__(in_channels, out_channels, identity=identity)
        self.conv1x1_3x3 = PointwiseConv(in_channels, ratio * out_channels, out_channels)
        for name, values in self.FILTERS.items():
            branch = PointwiseFilter(in_channels, out_channels, values)
            for parameter in (branch.scale, branch.bias):
                nn.init.normal_(parameter, std=1e-3)
            self.add_module(f"conv1x1_{name}", branch)
