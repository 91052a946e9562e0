"""LatticeNet: blocks of two chains that are combined with weights from channel attention, as in a lattice filter.

Luo, Xie, Zhang, Qu, Li and Fu, "LatticeNet: Towards Lightweight Image Super-Resolution with Lattice Block", ECCV 2020.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, count, out_channels, shuffle_scale
from fmen_core.blocks.layers import conv1x1, conv3x3, leaky_relu, pixel_shuffle_tail


class CombinationWeights(nn.Module):
    """Weights per channel (section 3.2): the average of two bottlenecks, over the means and over the contrasts.

    Args:
        n_feats: Channels of the features.
        reduction: Ratio of ``n_feats`` to the channels of the bottlenecks.
    """

    def __init__(self, n_feats: int, reduction: int = 16) -> None:
        super().__init__()
        self.mean = self.bottleneck(n_feats, reduction)
        self.contrast = self.bottleneck(n_feats, reduction)

    @staticmethod
    def bottleneck(n_feats: int, reduction: int) -> nn.Sequential:
        """Return two 1x1 convolutions with a LeakyReLU in between and a sigmoid."""
        narrow = max(n_feats // reduction, 1)
        return nn.Sequential(conv1x1(n_feats, narrow), leaky_relu(), conv1x1(narrow, n_feats), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, n_feats, H, W)`` to ``(N, n_feats, 1, 1)``."""
        mean = x.mean(dim=(2, 3), keepdim=True)
        contrast = (x - mean).square().mean(dim=(2, 3), keepdim=True).sqrt()
        out: Tensor = (self.mean(mean) + self.contrast(contrast)) / 2
        return out


class LatticeBlock(nn.Module):
    """Lattice block (section 3.1); ``(N, n_feats, H, W)`` to the same shape.

    Args:
        n_feats: Channels of the features.
    """

    def __init__(self, n_feats: int) -> None:
        super().__init__()
        self.first = self.chain(n_feats)
        self.first_of_features = CombinationWeights(n_feats)
        self.first_of_input = CombinationWeights(n_feats)
        self.second = self.chain(n_feats)
        self.second_of_input = CombinationWeights(n_feats)
        self.second_of_features = CombinationWeights(n_feats)
        self.compress = conv1x1(2 * n_feats, n_feats)

    @staticmethod
    def chain(n_feats: int) -> nn.Sequential:
        """Return three convolutions with activations, narrower in the middle."""
        narrow = n_feats - n_feats // 4
        convs = conv3x3(n_feats, narrow), conv3x3(narrow, narrow), conv3x3(narrow, n_feats)
        return nn.Sequential(*(module for conv in convs for module in (conv, leaky_relu())))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        features = self.first(x)
        upper = x + self.first_of_features(features) * features
        lower = features + self.first_of_input(x) * x
        features = self.second(upper)
        third = features + self.second_of_input(lower) * lower
        fourth = lower + self.second_of_features(features) * features
        out: Tensor = self.compress(torch.cat([third, fourth], dim=1))
        return out


class LatticeNet(nn.Module):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
        n_blocks: Lattice blocks.
    """

    name = "latticenet"
    data_range = 1.0

    def __init__(self, scale: int = 4, n_feats: int = 64, n_blocks: int = 4) -> None:
        super().__init__()
        self.scale = scale
        self.head = nn.Sequential(conv3x3(3, n_feats), conv3x3(n_feats, n_feats))
        self.blocks = nn.ModuleList(LatticeBlock(n_feats) for _ in range(n_blocks))
        self.deep = nn.ModuleList(self.halved(n_feats) for _ in range(n_blocks - 1))
        self.shallow = nn.ModuleList(self.halved(n_feats) for _ in range(n_blocks - 1))
        self.last = conv3x3(n_feats, n_feats)
        self.upsampler = pixel_shuffle_tail(n_feats, scale)

    @staticmethod
    def halved(n_feats: int) -> nn.Sequential:
        """Return a 1x1 convolution to half the channels and a ReLU."""
        return nn.Sequential(conv1x1(n_feats, n_feats // 2), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        head = self.head(x)
        features = [head]
        for block in self.blocks:
            features.append(block(features[-1]))
        # Backward fusion (section 3.3), from the last block to the first.
        fused = features[-1]
        for deep, shallow, earlier in zip(self.deep, self.shallow, features[-2:0:-1]):  # noqa: B905 - for Python 3.8
            fused = torch.cat([deep(fused), shallow(earlier)], dim=1)
        out: Tensor = self.upsampler(self.last(fused) + head)
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None or 0 stands for an absent tensor."""
    return {
        "scale": shuffle_scale(state, "upsampler.0.weight"),
        "n_feats": out_channels(state, "head.0.weight"),
        "n_blocks": count(state, r"blocks\.\d+\.compress\.weight"),
    }


ARCHITECTURE = Architecture(
    name=LatticeNet.name,
    title="LatticeNet",
    paper="Luo et al., ECCV 2020",
    data_range=LatticeNet.data_range,
    scales=(2, 3, 4),
    inference=LatticeNet,
    read_sizes=read_sizes,
    tileable=False,
)
