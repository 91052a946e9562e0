"""FSRCNN: narrow convolutions on luma at LR size and a transposed convolution.

Dong, Loy and Tang, "Accelerating the Super-Resolution Convolutional Neural Network", ECCV 2016; FSRCNN(56, 12, 4).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, count, out_channels
from fmen_core.blocks.layers import conv1x1, conv3x3
from fmen_core.blocks.luma import LumaNetwork, bicubic_scale


class FSRCNN(LumaNetwork):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features, d in the paper.
        mid_feats: Channels of the mapping, s in the paper.
        n_maps: 3x3 convolutions of the mapping, m in the paper.
    """

    name = "fsrcnn"

    def __init__(self, scale: int = 4, n_feats: int = 56, mid_feats: int = 12, n_maps: int = 4) -> None:
        super().__init__(scale)
        self.extract = nn.Sequential(nn.Conv2d(1, n_feats, 5, padding=2), nn.PReLU(n_feats))
        self.shrink = nn.Sequential(conv1x1(n_feats, mid_feats), nn.PReLU(mid_feats))
        self.map = nn.ModuleList(conv3x3(mid_feats, mid_feats) for _ in range(n_maps))
        self.map_act = nn.PReLU(mid_feats)
        self.expand = nn.Sequential(conv1x1(mid_feats, n_feats), nn.PReLU(n_feats))
        self.deconv = nn.ConvTranspose2d(n_feats, 1, 9, stride=scale, padding=4, output_padding=scale - 1)

    def upscale(self, luma: Tensor) -> Tensor:
        """Upscale luma ``(N, 1, H, W)``."""
        features = self.shrink(self.extract(luma))
        for conv in self.map:
            features = conv(features)
        out: Tensor = self.deconv(self.expand(self.map_act(features)))
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    return {
        "scale": bicubic_scale(state),
        "n_feats": out_channels(state, "extract.0.weight"),
        "mid_feats": out_channels(state, "shrink.0.weight"),
        "n_maps": count(state, r"map\.\d+\.weight"),
    }


ARCHITECTURE = Architecture(
    name=FSRCNN.name,
    title="FSRCNN",
    paper="Dong et al., ECCV 2016",
    data_range=FSRCNN.data_range,
    scales=(2, 3, 4),
    inference=FSRCNN,
    read_sizes=read_sizes,
)
