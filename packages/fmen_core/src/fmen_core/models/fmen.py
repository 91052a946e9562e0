"""FMEN in its training form: every 3x3 convolution of the inference form wears its re-parameterizable structure.

An RRRB is linear, so training does not need to run it as drawn. By default each forward pass merges the block's three
kernels into one, differentiably, and runs a single 3x3 convolution: the same function and the same gradients for a
third of the time and memory. ``collapsed = False`` runs the block as the paper draws it.

Likewise a batch normalization in front of a convolution: filling the convolution's border with the normalization's
shift equals subtracting the shift, padding with zeros, and adding the shift's response to the bias. No padded copy is
made, and what a normalization yields is not kept for the backward pass but made again. In eval mode the normalizations
are folded into the convolutions and all merging is done in float64, as ``reparameterize`` does it, so that both forms
run the same float32 convolutions.

Source: Du et al., "Fast and Memory-Efficient Network Towards Efficient Image Super-Resolution", NTIRE 2022, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.blocks.normalization import Statistics, normalized_conv, normalized_gate, observe, running
from fmen_core.fmen_deploy import SLOPE, VARIANTS, conv3x3, variant_name

Kernel = tuple[Tensor, Tensor]
"""A convolution's weight ``(O, I, kh, kw)`` and its bias ``(O,)``."""


def kernel_and_bias(conv: nn.Conv2d, dtype: torch.dtype | None = None) -> Kernel:
    """The parameters of a convolution that has a bias, as all of FMEN's have; in another precision on request."""
    assert conv.bias is not None
    return conv.weight.to(dtype or conv.weight.dtype), conv.bias.to(dtype or conv.bias.dtype)


class RRRB(nn.Module):
    """Residual-in-residual re-parameterizable block, ``(N, C, H, W)`` to the same: equation 3 of the paper.

    ``x + reduce(fea(pad(e)) + e)`` with ``e = expand(x)``, where ``pad`` fills the border with ``expand``'s bias: what
    ``expand`` makes of a zero pixel, so that the block equals one zero-padded 3x3 convolution.
    """

    def __init__(self, channels: int, ratio: int = 2) -> None:
        super().__init__()
        self.expand_conv = nn.Conv2d(channels, ratio * channels, 1)
        self.fea_conv = nn.Conv2d(ratio * channels, ratio * channels, 3)
        self.reduce_conv = nn.Conv2d(ratio * channels, channels, 1)
        self.collapsed = True

    def forward(self, x: Tensor) -> Tensor:
        """Run the merged convolution, or the block as drawn when ``collapsed`` is False."""
        if self.collapsed:
            return conv_with(x, self.merged(None if self.training else torch.float64))
        expanded = self.expand_conv(x)
        bias = kernel_and_bias(self.expand_conv)[1].view(1, -1, 1, 1)
        padded = F.pad(expanded - bias, (1, 1, 1, 1)) + bias
        out: Tensor = self.reduce_conv(self.fea_conv(padded) + expanded) + x
        return out

    def merged(self, dtype: torch.dtype | None = None) -> Kernel:
        """The equal 3x3 convolution, differentiable in the factors; computed in ``dtype``, their own by default."""
        # Products of kernels are cheap and their rounding enters every pixel: never in reduced precision.
        with torch.autocast(self.fea_conv.weight.device.type, enabled=False):
            expand, expand_bias = kernel_and_bias(self.expand_conv, dtype)
            fea, fea_bias = kernel_and_bias(self.fea_conv, dtype)
            reduce, reduce_bias = kernel_and_bias(self.reduce_conv, dtype)
            expand, reduce = expand.flatten(1), reduce.flatten(1)
            wide, channels = expand.shape
            # reduce . fea for all nine taps, then . expand: (C, wide * 9) -> (C, 9, wide) -> (C, 9, C).
            left = (reduce @ fea.flatten(1)).view(channels, wide, 9).transpose(1, 2)
            kernel = (left @ expand).transpose(1, 2).reshape(channels, channels, 3, 3)
            identity = reduce @ expand + torch.eye(channels, dtype=fea.dtype, device=fea.device)
            kernel = kernel + F.pad(identity[..., None, None], (1, 1, 1, 1))
            response = fea.sum((2, 3)) @ expand_bias + fea_bias + expand_bias
            return kernel, reduce @ response + reduce_bias


class ERB(nn.Module):
    """Enhanced residual block: two RRRBs and a leaky rectifier between them."""

    def __init__(self, channels: int, ratio: int = 2) -> None:
        super().__init__()
        self.conv1 = RRRB(channels, ratio)
        self.conv2 = RRRB(channels, ratio)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape."""
        out: Tensor = self.conv2(F.leaky_relu(self.conv1(x), SLOPE, inplace=True))
        return out


def factor_and_shift(bn: nn.BatchNorm2d, statistics: Statistics, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What ``bn`` does by these statistics, ``factor * x + shift``, each ``(C,)``; computed in ``dtype``."""
    mean, var, eps = statistics
    factor = bn.weight.to(dtype) * torch.rsqrt(var.to(dtype) + eps)
    return factor, bn.bias.to(dtype) - mean.to(dtype) * factor


def conv_after_bn(x: Tensor, bn: nn.BatchNorm2d, conv: nn.Conv2d) -> Tensor:
    """``conv(pad(bn(x)))`` where ``pad`` fills a border of one pixel with the shift of ``bn``'s running statistics."""
    batch, moving = observe(bn, x) if bn.training else (None, running(bn))
    shift = factor_and_shift(bn, moving, bn.weight.dtype)[1]
    weight, bias = kernel_and_bias(conv)
    # A sum of products, for autocast would compute a matrix product in reduced precision.
    bias = bias + (weight.sum((2, 3)) * shift).sum(1)
    if batch:
        return normalized_conv(x, batch, (bn.weight, bn.bias - shift), (weight, bias))
    centred = F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias - shift, eps=bn.eps)
    return F.conv2d(centred, weight, bias, padding=1)


def fold_bn_before(bn: nn.BatchNorm2d, kernel: Kernel) -> Kernel:
    """Fold ``conv(pad(bn(x)))``: exact at the border because ``pad`` fills it with what ``bn`` makes of a zero."""
    weight, bias = kernel
    factor, shift = factor_and_shift(bn, running(bn), weight.dtype)
    return weight * factor.view(1, -1, 1, 1), bias + weight.sum((2, 3)) @ shift


def fold_bn_after(kernel: Kernel, bn: nn.BatchNorm2d) -> Kernel:
    """Fold ``bn(conv(x))``."""
    weight, bias = kernel
    factor, shift = factor_and_shift(bn, running(bn), weight.dtype)
    return weight * factor.view(-1, 1, 1, 1), bias * factor + shift


def conv_with(x: Tensor, kernel: Kernel) -> Tensor:
    """A zero-padded 3x3 convolution with parameters of any precision, rounded to that of ``x``."""
    weight, bias = kernel
    # Contiguous: the strides that a product of kernels leaves would decide the layout of the output, instead of x.
    return F.conv2d(x, weight.to(x.dtype).contiguous(), bias.to(x.dtype), padding=1)


class HFAB(nn.Module):
    """High-frequency attention block, ``(N, C, H, W)`` to the same: section 3.2 of the paper."""

    def __init__(self, n_feats: int, mid_feats: int, blocks: int, ratio: int = 2) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(n_feats)
        self.bn2 = nn.BatchNorm2d(mid_feats)
        self.bn3 = nn.BatchNorm2d(n_feats)
        self.squeeze = nn.Conv2d(n_feats, mid_feats, 3)
        self.convs = nn.Sequential(*(ERB(mid_feats, ratio) for _ in range(blocks)))
        self.excitate = nn.Conv2d(mid_feats, n_feats, 3)
        self.collapsed = True

    def forward(self, x: Tensor) -> Tensor:
        """Weigh ``x`` by the attention branch's sigmoid."""
        folded = self.folded() if self.collapsed and not self.training else None
        branch = conv_with(x, folded[0]) if folded else conv_after_bn(x, self.bn1, self.squeeze)
        branch = self.convs(F.leaky_relu(branch, SLOPE, inplace=True))
        branch = F.leaky_relu(branch, SLOPE, inplace=True)
        if folded:
            return x * torch.sigmoid_(conv_with(branch, folded[1]))
        excited = conv_after_bn(branch, self.bn2, self.excitate)
        if not self.bn3.training:
            return x * torch.sigmoid_(self.bn3(excited))
        return normalized_gate(x, excited, observe(self.bn3, excited)[0], (self.bn3.weight, self.bn3.bias))

    def folded(self) -> tuple[Kernel, Kernel]:
        """In float64, the squeezing convolution with bn1 and the exciting one with bn2 and bn3, in eval mode."""
        squeeze = fold_bn_before(self.bn1, kernel_and_bias(self.squeeze, torch.float64))
        excitate = fold_bn_before(self.bn2, kernel_and_bias(self.excitate, torch.float64))
        return squeeze, fold_bn_after(excitate, self.bn3)


class FMEN(nn.Module):
    """Fast and memory-efficient network, training form.

    Maps RGB ``(N, 3, H, W)`` in ``[0, 255]`` to ``(N, 3, scale*H, scale*W)`` in the same range. The defaults are
    FMEN-S. ``fmen_core.reparameterize`` turns it into ``fmen_core.fmen_deploy.FMEN``.

    Args:
        scale: Upscaling factor: 2, 3 or 4.
        n_feats: Channels of the trunk.
        mid_feats: Channels of the attention branches; the first one is four narrower.
        down_blocks: Pairs of ERB and HFAB.
        up_blocks: ERBs inside each HFAB, ``down_blocks + 1`` numbers.
        ratio: How much wider an RRRB is inside.
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
    ) -> None:
        super().__init__()
        self.scale = scale
        self.name = variant_name(n_feats, mid_feats, down_blocks, up_blocks)
        self.sizes: dict[str, Any] = {
            "n_feats": n_feats,
            "mid_feats": mid_feats,
            "down_blocks": down_blocks,
            "up_blocks": tuple(up_blocks),
        }
        self.head = conv3x3(3, n_feats)
        self.warmup = nn.Sequential(conv3x3(n_feats, n_feats), HFAB(n_feats, mid_feats - 4, up_blocks[0], ratio))
        self.ERBs = nn.ModuleList(ERB(n_feats, ratio) for _ in range(down_blocks))
        self.HFABs = nn.ModuleList(HFAB(n_feats, mid_feats, up_blocks[i + 1], ratio) for i in range(down_blocks))
        self.lr_conv = conv3x3(n_feats, n_feats)
        self.tail = nn.Sequential(conv3x3(n_feats, 3 * scale**2), nn.PixelShuffle(scale))

    @classmethod
    def from_variant(cls, name: str, scale: int = 4) -> FMEN:
        """The published variant ``"fmen"`` or ``"fmen-s"``."""
        return cls(scale=scale, **VARIANTS[name])

    @property
    def collapsed(self) -> bool:
        """Whether every block runs merged (the default) or as the paper draws it; the function is the same."""
        return all(module.collapsed for module in self.modules() if isinstance(module, (RRRB, HFAB)))

    @collapsed.setter
    def collapsed(self, value: bool) -> None:
        for module in self.modules():
            if isinstance(module, (RRRB, HFAB)):
                module.collapsed = value

    def forward(self, x: Tensor) -> Tensor:
        """Upscale ``(N, 3, H, W)`` to ``(N, 3, scale*H, scale*W)``."""
        shallow = self.head(x)
        deep = self.warmup(shallow)
        for erb, hfab in zip(self.ERBs, self.HFABs, strict=True):
            deep = hfab(erb(deep))
        out: Tensor = self.tail(self.lr_conv(deep) + shallow)
        return out
