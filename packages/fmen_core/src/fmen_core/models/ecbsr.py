"""ECBSR: 3x3 convolutions and PReLUs on top of a nearest-neighbour anchor, for mobile devices.

In the training form every convolution is an edge-oriented convolution block. ``MmCc`` in the paper has ``n_blocks=m``
and ``n_feats=c``, from M4C8 to M16C64.

Source: Zhang et al., "Edge-oriented Convolution Block for Real-time Super Resolution on Mobile Devices", ACM MM 2021.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, count, out_channels
from fmen_core.blocks.layers import conv3x3, named
from fmen_core.blocks.reparameterizable import ECB


class ECBSR(nn.Module):
    """Inference form: RGB ``(N, 3, H, W)`` in ``[0, 255]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    Args:
        scale: Upscaling factor: 2, 3 or 4.
        n_blocks: Convolutions between the first and the last one.
        n_feats: Channels of the features.
        colors: 3, or 1 as in the paper, which upscales luma. With 1, each of R, G and B is upscaled by itself.
    """

    name = "ecbsr"
    data_range = 255.0

    def __init__(self, scale: int = 4, n_blocks: int = 4, n_feats: int = 16, colors: int = 3) -> None:
        super().__init__()
        if colors not in (1, 3):
            raise ValueError(f"colors is {colors}; choose 1 or 3")
        self.scale = scale
        self.colors = colors
        widths = [colors, *[n_feats] * n_blocks]
        layers = [named(conv3x3=conv3x3(width, n_feats), act=nn.PReLU(n_feats)) for width in widths]
        self.backbone = nn.Sequential(*layers, named(conv3x3=conv3x3(n_feats, colors * scale**2)))

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        images = x.reshape(-1, self.colors, *x.shape[2:])
        # Shuffled, copies of each channel are its nearest-neighbour enlargement.
        anchor = images.repeat_interleave(self.scale**2, dim=1)
        out = F.pixel_shuffle(self.backbone(images) + anchor, self.scale)
        return out.reshape(-1, 3, *out.shape[2:])


class ECBSRTraining(ECBSR):
    """Training form. ``fmen_core.reparameterize`` converts it to :class:`ECBSR`.

    Args:
        scale: Upscaling factor: 2, 3 or 4.
        n_blocks: Blocks between the first and the last one.
        n_feats: Channels of the features.
        colors: 3, or 1 to upscale each of R, G and B by itself.
        ratio: Expansion ratio of the ECBs.
    """

    def __init__(self, scale: int = 4, n_blocks: int = 4, n_feats: int = 16, colors: int = 3, ratio: int = 2) -> None:
        super().__init__(scale, n_blocks, n_feats, colors)
        for layer in self.backbone:
            conv = layer.get_submodule("conv3x3")
            assert isinstance(conv, nn.Conv2d)
            layer.add_module("conv3x3", ECB(conv.in_channels, conv.out_channels, ratio))


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None or 0 stands for an absent tensor."""
    training = "backbone.0.conv3x3.conv3x3.weight" in state
    conv = "conv3x3.conv3x3.weight" if training else "conv3x3.weight"
    layers = count(state, rf"backbone\.\d+\.{conv}")
    first, last = state.get(f"backbone.0.{conv}"), out_channels(state, f"backbone.{layers - 1}.{conv}")
    if first is None or first.dim() != 4 or last is None:
        return {"scale": None}
    n_feats, colors = first.shape[:2]
    sizes = {
        "scale": round((last / (colors or 1)) ** 0.5),
        "form": "training" if training else "inference",
        "n_blocks": layers - 2,
        "n_feats": n_feats,
        "colors": colors,
    }
    if training:
        sizes["ratio"] = (out_channels(state, "backbone.0.conv3x3.conv1x1_3x3.conv1x1.weight") or 0) // (n_feats or 1)
    return sizes


ARCHITECTURE = Architecture(
    name=ECBSR.name,
    title="ECBSR",
    paper="Zhang et al., ACM MM 2021",
    data_range=ECBSR.data_range,
    scales=(2, 3, 4),
    inference=ECBSR,
    training=ECBSRTraining,
    read_sizes=read_sizes,
)
