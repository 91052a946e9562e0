"""DIPNet slim v2 of the NTIRE 2025 challenge on efficient super-resolution (team 15).

Four residual local feature blocks (Kong et al., CVPR Workshops 2022) with 32 channels, SiLU, and 3x3 convolutions
without bias, after Yu et al., "DIPNet: Efficiency Distillation and Iterative Pruning for Image Super-Resolution", CVPR
Workshops 2023. The challenge's report is Ren et al., "The Tenth NTIRE 2025 Efficient Super-Resolution Challenge
Report", CVPR Workshops 2025. This is the inference form, after re-parameterization.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, out_channels, shuffle_scale
from fmen_core.blocks.attention import ESA
from fmen_core.blocks.layers import conv1x1, conv3x3, named
from fmen_core.blocks.residual_local import ResidualLocalFeature
from fmen_core.blocks.swift_attention import eval_conv


def bias_free(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return a 3x3 convolution without bias under the published key name."""
    return named(eval_conv=conv3x3(in_channels, out_channels, bias=False))


class DIPNetSlim(nn.Module):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)``.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
        esa_feats: Channels inside the attention.
    """

    name = "dipnet-slim"
    data_range = 1.0

    def __init__(self, scale: int = 4, n_feats: int = 32, esa_feats: int = 16) -> None:
        super().__init__()
        self.scale = scale

        def block() -> ResidualLocalFeature:
            return ResidualLocalFeature(
                n_feats,
                n_feats,
                act=nn.SiLU(inplace=True),
                fuse=conv1x1(n_feats, n_feats, bias=False),
                attention=ESA(n_feats, esa_feats, deep=False, conv=eval_conv),
                conv=bias_free,
            )

        self.conv_1 = bias_free(3, n_feats)
        self.block_1 = block()
        self.block_2 = block()
        self.block_3 = block()
        self.block_4 = block()
        self.conv_2 = conv1x1(n_feats, n_feats, bias=False)
        self.upsampler = nn.Sequential(bias_free(n_feats, 3 * scale**2), nn.PixelShuffle(scale))

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        head = self.conv_1(x)
        first = self.block_1(head)
        second = self.block_2(first)
        third = self.block_3(second)
        fourth = self.block_4(third)
        out: Tensor = self.upsampler(self.conv_2(fourth) + head)
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    return {
        "scale": shuffle_scale(state, "upsampler.0.eval_conv.weight"),
        "n_feats": out_channels(state, "conv_1.eval_conv.weight"),
        "esa_feats": out_channels(state, "block_1.esa.conv1.weight"),
    }


ARCHITECTURE = Architecture(
    name=DIPNetSlim.name,
    title="DIPNet slim v2",
    paper="NTIRE 2025, team 15; after Yu et al., CVPR Workshops 2023",
    data_range=DIPNetSlim.data_range,
    scales=(2, 3, 4),
    inference=DIPNetSlim,
    read_sizes=read_sizes,
    min_size=15,
    tileable=False,
)
