"""SlimRLFN of the NTIRE 2024 challenge on efficient super-resolution (team 21), before its last pruning.

RLFN (Kong et al., CVPR Workshops 2022) with six blocks of 30 channels and an attention without the convolution at full
size. The challenge's report is Ren et al., "The Ninth NTIRE 2024 Efficient Super-Resolution Challenge Report", CVPR
Workshops 2024.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, count, out_channels, shuffle_scale
from fmen_core.blocks.attention import ESA
from fmen_core.blocks.layers import conv1x1, conv3x3, leaky_relu, named
from fmen_core.blocks.residual_local import ResidualLocalFeature


class SlimRLFN(nn.Module):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 255]`` to ``(N, 3, scale*H, scale*W)``.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
        n_blocks: Number of blocks.
        esa_feats: Channels inside the attention.
    """

    name = "slimrlfn"
    data_range = 255.0

    def __init__(self, scale: int = 4, n_feats: int = 30, n_blocks: int = 6, esa_feats: int = 16) -> None:
        super().__init__()
        self.scale = scale

        def block() -> ResidualLocalFeature:
            return ResidualLocalFeature(
                n_feats,
                n_feats,
                act=leaky_relu(),
                fuse=conv1x1(n_feats, n_feats),
                attention=ESA(n_feats, esa_feats, deep=False, fine=False),
            )

        self.conv_1 = conv3x3(3, n_feats)
        self.block_list = nn.Sequential(*(block() for _ in range(n_blocks)))
        self.conv_2 = conv3x3(n_feats, n_feats)
        self.upsampler = named(upsample_conv=conv3x3(n_feats, 3 * scale**2), shuffle=nn.PixelShuffle(scale))

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        head = self.conv_1(x)
        out: Tensor = self.upsampler(self.conv_2(self.block_list(head)) + head)
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    return {
        "scale": shuffle_scale(state, "upsampler.upsample_conv.weight"),
        "n_feats": out_channels(state, "conv_1.weight"),
        "n_blocks": count(state, r"block_list\.\d+\.c5\.weight"),
        "esa_feats": out_channels(state, "block_list.0.esa.conv1.weight"),
    }


ARCHITECTURE = Architecture(
    name=SlimRLFN.name,
    title="SlimRLFN",
    paper="NTIRE 2024, team 21; after Kong et al., CVPR Workshops 2022",
    data_range=SlimRLFN.data_range,
    scales=(2, 3, 4),
    inference=SlimRLFN,
    read_sizes=read_sizes,
    min_size=15,
    tileable=False,
)
