"""Attention: weights in (0, 1) per pixel or per channel that a feature map is multiplied with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.blocks.layers import conv1x1, conv3x3


def resize_like(x: Tensor, target: Tensor) -> Tensor:
    """Bilinear interpolation of ``x`` to the height and width of ``target``."""
    return F.interpolate(x, target.shape[-2:], mode="bilinear", align_corners=False)


class SpatialGate(nn.Module):
    """What all forms of enhanced spatial attention (ESA) share: how a coarse map becomes a weight for each element.

    ESA (Liu et al., "Residual Feature Aggregation Network for Image Super-Resolution", CVPR 2020) reduces the channels,
    looks at the image from afar, and multiplies its input with the sigmoid of what it saw. A subclass says how.

    Args:
        n_feats: Channels of the features that are weighted.
        esa_feats: Channels inside the attention.
    """

    def __init__(self, n_feats: int, esa_feats: int) -> None:
        super().__init__()
        self.conv1 = conv1x1(n_feats, esa_feats)
        self.conv_f = conv1x1(esa_feats, esa_feats)
        self.conv4 = conv1x1(esa_feats, n_feats)

    def gate(self, x: Tensor, reduced: Tensor, coarse: Tensor) -> Tensor:
        """Weight ``x`` ``(N, n_feats, H, W)`` by ``reduced`` and ``coarse``, both ``(N, esa_feats, H, W)``."""
        fine = self.conv_f(reduced)
        logits = self.conv4(coarse + fine)
        weights = torch.sigmoid(logits)
        return x * weights


class ESA(SpatialGate):
    """ESA as in RFDN: a strided convolution, max-pooling, and convolutions on the small map.

    Args:
        n_feats: Channels of the features that are weighted.
        esa_feats: Channels inside the attention.
        deep: Three convolutions on the small map with ReLU between them, as in RFDN; otherwise one, as in RLFN.
    """

    def __init__(self, n_feats: int, esa_feats: int, *, deep: bool = True) -> None:
        super().__init__(n_feats, esa_feats)
        self.deep = deep
        self.conv2 = nn.Conv2d(esa_feats, esa_feats, kernel_size=3, stride=2)
        self.conv3 = conv3x3(esa_feats, esa_feats)
        if deep:
            self.conv_max = conv3x3(esa_feats, esa_feats)
            self.conv3_ = conv3x3(esa_feats, esa_feats)
            self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, n_feats, H, W)`` to the same shape; H and W at least 15."""
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
    """Contrast-aware channel attention (CCA) of IMDN, section 3.2: channels weighted by their mean plus their contrast.

    Args:
        n_feats: Channels of the features that are weighted.
        reduction: How many times fewer channels the bottleneck has.
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
        """``(N, n_feats, H, W)`` to the same shape."""
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
        """``(N, n_feats, H, W)`` to the same shape."""
        return x * torch.sigmoid(self.conv(x))
