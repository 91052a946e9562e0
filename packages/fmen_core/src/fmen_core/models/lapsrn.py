"""LapSRN: a pyramid that doubles the size at each level, with a branch for features and one for the image.

Lai, Huang, Ahuja and Yang, "Deep Laplacian Pyramid Networks for Fast and Accurate Super-Resolution", CVPR 2017. For x3,
which the paper makes by shrinking x4, one level enlarges three times.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, count, out_channels
from fmen_core.blocks.layers import conv3x3
from fmen_core.blocks.luma import LumaNetwork, bicubic_scale


def enlarging(in_channels: int, out_channels: int, factor: int) -> nn.ConvTranspose2d:
    """Return a transposed convolution that enlarges by ``factor``; its kernel has twice that side, as bilinear ones."""
    padding, extra = (factor + 1) // 2, factor % 2
    return nn.ConvTranspose2d(
        in_channels, out_channels, 2 * factor, stride=factor, padding=padding, output_padding=extra
    )


class Level(nn.Module):
    """One level of the pyramid: features and image ``(N, C, H, W)`` and ``(N, 1, H, W)`` to ``factor`` times the size.

    Args:
        n_feats: C.
        depth: 3x3 convolutions.
        factor: Upscaling factor of the level.
    """

    def __init__(self, n_feats: int, depth: int, factor: int) -> None:
        super().__init__()
        layers = [module for _ in range(depth) for module in (conv3x3(n_feats, n_feats), nn.LeakyReLU(0.2))]
        self.features = nn.Sequential(*layers, enlarging(n_feats, n_feats, factor), nn.LeakyReLU(0.2))
        self.residual = conv3x3(n_feats, 1)
        self.image = enlarging(1, 1, factor)

    def forward(self, features: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Enlarge both."""
        features = self.features(features)
        return features, self.image(image) + self.residual(features)


class LapSRN(LumaNetwork):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
        depth: 3x3 convolutions per level.
    """

    name = "lapsrn"

    def __init__(self, scale: int = 4, n_feats: int = 64, depth: int = 10) -> None:
        super().__init__(scale)
        factors = (2, 2) if scale == 4 else (scale,)
        self.head = nn.Sequential(conv3x3(1, n_feats), nn.LeakyReLU(0.2))
        self.levels = nn.ModuleList(Level(n_feats, depth, factor) for factor in factors)

    def upscale(self, luma: Tensor) -> Tensor:
        """Upscale luma ``(N, 1, H, W)``."""
        features, image = self.head(luma), luma
        for level in self.levels:
            features, image = level(features, image)
        return image


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None or 0 stands for an absent tensor."""
    layers = count(state, r"levels\.0\.features\.\d+\.weight")
    return {
        "scale": bicubic_scale(state),
        "n_feats": out_channels(state, "head.0.weight"),
        "depth": layers - 1,
    }


ARCHITECTURE = Architecture(
    name=LapSRN.name,
    title="LapSRN",
    paper="Lai et al., CVPR 2017",
    data_range=LapSRN.data_range,
    scales=(2, 3, 4),
    inference=LapSRN,
    read_sizes=read_sizes,
)
