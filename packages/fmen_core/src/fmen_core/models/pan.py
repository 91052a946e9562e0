"""PAN, the pixel attention network, with the fewest parameters in the AIM 2020 challenge on efficient super-resolution.

Zhao, Kong, He, Qiao and Dong, "Efficient Image Super-Resolution Using Pixel Attention", ECCV Workshops 2020. The names
of the parameters are those of the authors' code.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, count, out_channels
from fmen_core.blocks.attention import PixelAttention
from fmen_core.blocks.layers import conv1x1, conv3x3


class PAConv(nn.Module):
    """A 3x3 convolution, pixel attention from the same input, and a second 3x3 convolution; the shape is unchanged."""

    def __init__(self, n_feats: int) -> None:
        super().__init__()
        self.k2 = conv1x1(n_feats, n_feats)
        self.k3 = conv3x3(n_feats, n_feats, bias=False)
        self.k4 = conv3x3(n_feats, n_feats, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the convolutions to ``(N, n_feats, H, W)``."""
        weights = torch.sigmoid(self.k2(x))
        out: Tensor = self.k4(self.k3(x) * weights)
        return out


class SCPA(nn.Module):
    """Self-calibrated block with pixel attention (section 3.2); ``(N, n_feats, H, W)`` to the same shape."""

    def __init__(self, n_feats: int) -> None:
        super().__init__()
        half = n_feats // 2
        self.conv1_a = conv1x1(n_feats, half, bias=False)
        self.conv1_b = conv1x1(n_feats, half, bias=False)
        self.k1 = nn.Sequential(conv3x3(half, half, bias=False))
        self.PAConv = PAConv(half)
        self.conv3 = conv1x1(2 * half, n_feats, bias=False)
        self.lrelu = nn.LeakyReLU(negative_slope=0.2, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        first, second = self.lrelu(self.conv1_a(x)), self.lrelu(self.conv1_b(x))
        first, second = self.lrelu(self.k1(first)), self.lrelu(self.PAConv(second))
        out: Tensor = self.conv3(torch.cat([first, second], dim=1)) + x
        return out


class PAN(nn.Module):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    The upsampler (section 3.3) enlarges the features with nearest-neighbour interpolation, by 2 twice for x4, and each
    time applies a convolution, pixel attention and a second convolution.

    Args:
        scale: Upscaling factor: 2, 3 or 4. For x2 and x3 all parameters have the same shapes. The state dict for x3 has
            the entry ``times3`` besides, by which it is recognised; published weights have none.
        n_feats: Channels of the trunk, an even number.
        up_feats: Channels of the upsampler.
        n_blocks: Blocks of the trunk.
    """

    name = "pan"
    data_range = 1.0

    def __init__(self, scale: int = 4, n_feats: int = 40, up_feats: int = 24, n_blocks: int = 16) -> None:
        super().__init__()
        self.scale = scale
        self.conv_first = conv3x3(3, n_feats)
        self.SCPA_trunk = nn.Sequential(*(SCPA(n_feats) for _ in range(n_blocks)))
        self.trunk_conv = conv3x3(n_feats, n_feats)
        self.upconv1 = conv3x3(n_feats, up_feats)
        self.att1 = PixelAttention(up_feats)
        self.HRconv1 = conv3x3(up_feats, up_feats)
        if scale == 4:
            self.upconv2 = conv3x3(up_feats, up_feats)
            self.att2 = PixelAttention(up_feats)
            self.HRconv2 = conv3x3(up_feats, up_feats)
        if scale == 3:
            self.register_buffer("times3", torch.ones(()))
        self.conv_last = conv3x3(up_feats, 3)
        self.lrelu = nn.LeakyReLU(negative_slope=0.2, inplace=True)

    def enlarge(self, x: Tensor, factor: int, step: int) -> Tensor:
        """Enlarge features by ``factor`` with the layers of one step of the upsampler."""
        conv, attention, last = (self.get_submodule(f"{name}{step}") for name in ("upconv", "att", "HRconv"))
        features = self.lrelu(attention(conv(F.interpolate(x, scale_factor=factor, mode="nearest"))))
        out: Tensor = self.lrelu(last(features))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        shallow = self.conv_first(x)
        features = shallow + self.trunk_conv(self.SCPA_trunk(shallow))
        features = self.enlarge(features, 2 if self.scale == 4 else self.scale, 1)
        if self.scale == 4:
            features = self.enlarge(features, 2, 2)
        out: Tensor = self.conv_last(features)
        return out + F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False)


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the names and shapes in a state dict; None stands for an absent tensor."""
    return {
        "scale": 4 if "upconv2.weight" in state else 3 if "times3" in state else 2,
        "n_feats": out_channels(state, "conv_first.weight"),
        "up_feats": out_channels(state, "upconv1.weight"),
        "n_blocks": count(state, r"SCPA_trunk\.\d+\.conv3\.weight"),
    }


ARCHITECTURE = Architecture(
    name=PAN.name,
    title="PAN",
    paper="Zhao et al., ECCV Workshops 2020, team XPixel at AIM 2020",
    data_range=PAN.data_range,
    scales=(2, 3, 4),
    inference=PAN,
    read_sizes=read_sizes,
)
