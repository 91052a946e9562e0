"""Attention: feature maps multiplied by weights in (0, 1), per channel, per pixel, or both."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core import fmen_deploy
from fmen_core.blocks.layers import Kernel, conv1x1, conv3x3, kernel_of
from fmen_core.blocks.normalization import (
    conv_after_bn,
    fold_bn_after,
    fold_bn_before,
    gate_after_bn,
    set_statistics,
    unfold_bn_after,
    unfold_bn_before,
)
from fmen_core.blocks.reparameterizable import ConvStatistics, Reparameterizable, conv_with, set_kernel


def resize_like(x: Tensor, target: Tensor) -> Tensor:
    """Interpolate ``x`` bilinearly to the height and width of ``target``."""
    return F.interpolate(x, target.shape[-2:], mode="bilinear", align_corners=False)


class SpatialGate(nn.Module):
    """Base class of the variants of enhanced spatial attention (ESA).

    ESA (Liu et al., "Residual Feature Aggregation Network for Image Super-Resolution", CVPR 2020) reduces the channels,
    computes a map at low resolution, and multiplies its input by the sigmoid of that map. A subclass computes the map.

    Args:
        n_feats: Channels of the input.
        esa_feats: Channels inside the attention.
        fine: Whether a convolution ``conv_f`` refines the features at full size.
    """

    def __init__(self, n_feats: int, esa_feats: int, *, fine: bool = True) -> None:
        super().__init__()
        self.conv1 = conv1x1(n_feats, esa_feats)
        self.conv_f = conv1x1(esa_feats, esa_feats) if fine else nn.Identity()
        self.conv4 = conv1x1(esa_feats, n_feats)

    def gate(self, x: Tensor, reduced: Tensor, coarse: Tensor) -> Tensor:
        """Multiply ``x`` ``(N, n_feats, H, W)`` by weights from two maps, both ``(N, esa_feats, H, W)``."""
        fine = self.conv_f(reduced)
        logits = self.conv4(coarse + fine)
        weights = torch.sigmoid(logits)
        return x * weights


class ESA(SpatialGate):
    """ESA of RFDN and RLFN: a strided convolution, max-pooling, and convolutions on the small map.

    Args:
        n_feats: Channels of the input.
        esa_feats: Channels inside the attention.
        deep: Three convolutions on the small map with ReLU in between, as in RFDN; otherwise one, as in RLFN.
        fine: Whether a convolution ``conv_f`` refines the features at full size.
        conv: Makes the convolutions on the small map from the numbers of input and output channels.
    """

    def __init__(
        self,
        n_feats: int,
        esa_feats: int,
        *,
        deep: bool = True,
        fine: bool = True,
        conv: Callable[[int, int], nn.Module] = conv3x3,
    ) -> None:
        super().__init__(n_feats, esa_feats, fine=fine)
        self.deep = deep
        self.conv2 = nn.Conv2d(esa_feats, esa_feats, kernel_size=3, stride=2)
        self.conv3 = conv(esa_feats, esa_feats)
        if deep:
            self.conv_max = conv(esa_feats, esa_feats)
            self.conv3_ = conv(esa_feats, esa_feats)
            self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the attention to ``(N, n_feats, H, W)``; H and W are at least 15."""
        reduced = self.conv1(x)
        half = self.conv2(reduced)
        small = F.max_pool2d(half, kernel_size=7, stride=3)
        if self.deep:
            seen = self.relu(self.conv_max(small))
            coarse = resize_like(self.conv3_(self.relu(self.conv3(seen))), x)
        else:
            coarse = resize_like(self.conv3(small), x)
        return self.gate(x, reduced, coarse)


class ContrastAttention(nn.Module):
    """Contrast-aware channel attention (CCA; IMDN, section 3.2): weights from each channel's mean plus its contrast.

    Args:
        n_feats: Channels of the input.
        reduction: Ratio of ``n_feats`` to the channels of the bottleneck.
    """

    def __init__(self, n_feats: int, reduction: int = 16) -> None:
        super().__init__()
        self.conv_du = nn.Sequential(
            conv1x1(n_feats, n_feats // reduction),
            nn.ReLU(inplace=True),
            conv1x1(n_feats // reduction, n_feats),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the attention to ``(N, n_feats, H, W)``."""
        mean = x.mean(dim=(2, 3), keepdim=True)
        contrast = (x - mean).square().mean(dim=(2, 3), keepdim=True).sqrt()
        out: Tensor = x * self.conv_du(contrast + mean)
        return out


class PixelAttention(nn.Module):
    """Pixel attention (Zhao et al., "Efficient Image Super-Resolution Using Pixel Attention", ECCV Workshops 2020)."""

    def __init__(self, n_feats: int) -> None:
        super().__init__()
        self.conv = conv1x1(n_feats, n_feats)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the attention to ``(N, n_feats, H, W)``."""
        return x * torch.sigmoid(self.conv(x))


class HFAB(Reparameterizable):
    """High-frequency attention block (FMEN, section 3.2), training form; ``(N, C, H, W)`` to the same shape.

    ``x * sigmoid(bn3(excitate(pad(bn2(lrelu(convs(lrelu(squeeze(pad(bn1(x))))))))))``. Each ``pad`` fills the border
    with the shift of the BatchNorm in front of it. While all BatchNorms are in eval mode, they are folded into the
    convolutions, in training, too.

    Args:
        n_feats: C.
        mid_feats: Channels of the branch.
        convs: Makes the module in the middle of the branch, ``(N, mid_feats, H, W)`` to the same shape. A function, so
            that layers are initialised in the order of the forward pass.
    """

    def __init__(self, n_feats: int, mid_feats: int, convs: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(n_feats)
        self.bn2 = nn.BatchNorm2d(mid_feats)
        self.bn3 = nn.BatchNorm2d(n_feats)
        self.squeeze = nn.Conv2d(n_feats, mid_feats, 3)
        self.convs = convs()
        self.excitate = nn.Conv2d(mid_feats, n_feats, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x`` by the attention map."""
        frozen = not any(bn.training for bn in (self.bn1, self.bn2, self.bn3))
        folded = self.folded() if self.collapsed and frozen else None
        branch = conv_with(x, folded[0]) if folded else conv_after_bn(x, self.bn1, self.squeeze)
        branch = self.convs(F.leaky_relu(branch, fmen_deploy.SLOPE, inplace=True))
        branch = F.leaky_relu(branch, fmen_deploy.SLOPE, inplace=True)
        if folded:
            return x * torch.sigmoid_(conv_with(branch, folded[1]))
        return gate_after_bn(x, conv_after_bn(branch, self.bn2, self.excitate), self.bn3)

    def folded(self) -> tuple[Kernel, Kernel]:
        """Return the kernels of both convolutions with the BatchNorms folded in, in float64."""
        squeeze = fold_bn_before(self.bn1, kernel_of(self.squeeze, torch.float64))
        excitate = fold_bn_before(self.bn2, kernel_of(self.excitate, torch.float64))
        return squeeze, fold_bn_after(excitate, self.bn3)

    @torch.no_grad()
    def fused(self) -> nn.Module:
        """Return the inference form; its ``convs`` are those of the block and still in the training form."""
        block = fmen_deploy.HFAB(self.bn1.num_features, self.bn2.num_features, 0).to(self.squeeze.weight)
        for conv, kernel in zip((block.squeeze, block.excitate), self.folded(), strict=True):
            set_kernel(conv, kernel)
        block.add_module("convs", self.convs)
        return block

    @torch.no_grad()
    def expand_from(self, fused: nn.Module, statistics: ConvStatistics) -> None:
        """Give each BatchNorm the statistics of its input, and unfold them from the convolutions.

        bn1 and bn2 have the affine parameters 1 and 0, bn3 returns its input in eval mode. In training mode the block
        is the same function, as far as a batch has the given statistics.
        """
        squeeze, excitate = fused.get_submodule("squeeze"), fused.get_submodule("excitate")
        set_statistics(self.bn1, statistics[squeeze][0])
        set_statistics(self.bn2, statistics[excitate][0])
        set_statistics(self.bn3, statistics[excitate][1], identity=True)
        set_kernel(self.squeeze, unfold_bn_before(self.bn1, kernel_of(squeeze, torch.float64)))
        kernel = unfold_bn_after(kernel_of(excitate, torch.float64), self.bn3)
        set_kernel(self.excitate, unfold_bn_before(self.bn2, kernel))
