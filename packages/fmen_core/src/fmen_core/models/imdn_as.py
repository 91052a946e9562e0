"""IMDN-AS, the IMDN for any scale: it enhances an image that is already enlarged, at a quarter of its resolution.

Hui, Gao, Yang and Wang, "Lightweight Image Super-Resolution with Information Multi-distillation Network", ACM MM 2019,
section 3.4 and figure 1. Two convolutions of stride 2 precede IMDN's blocks, and an x4 pixel shuffle follows them, so
that one network serves all scales. An image whose sides are not multiples of four is cut into four overlapping parts
(adaptive cropping). The authors publish weights for photographs at their own size (RealSR).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmen_core.architecture import Architecture, StateDict, out_channels, shuffle_scale
from fmen_core.blocks.luma import Bicubic
from fmen_core.models.imdn import IMDN

STRIDE = 4
"""Ratio of the image to the features."""

OVERLAP = 32
"""Pixels by which a part extends beyond the middle of the image."""


class IMDNAS(IMDN):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    The weights do not depend on the scale. They are published for images that are already enlarged, ``scale=1``; at
    other scales the image is enlarged bicubically first.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
    """

    name = "imdn-as"
    data_range = 1.0

    def __init__(self, scale: int = 4, n_feats: int = 64) -> None:
        super().__init__(STRIDE, n_feats)  # its upsampler undoes the strides
        self.scale = scale
        self.bicubic = Bicubic(scale, persistent=False)
        first, second = (nn.Conv2d(channels, n_feats, 3, stride=2, padding=1) for channels in (3, n_feats))
        self.fea_conv = nn.Sequential(first, nn.LeakyReLU(0.05), second)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        enlarged: Tensor = x if self.scale == 1 else self.bicubic(x)
        divisible = self.scale % STRIDE == 0 or not any(side % STRIDE for side in enlarged.shape[2:])
        return self.enhance(enlarged) if divisible else self.enhance_parts(enlarged)

    def enhance(self, x: Tensor) -> Tensor:
        """Enhance images ``(N, 3, H, W)`` whose sides are multiples of four."""
        return super().forward(x)

    def enhance_parts(self, x: Tensor) -> Tensor:
        """Enhance images ``(N, 3, H, W)`` of any size in four overlapping parts, one for each corner."""
        height, width = x.shape[2:]
        x = F.pad(x, (0, max(0, STRIDE - width), 0, max(0, STRIDE - height)), mode="replicate")
        rows, columns = part_length(x.shape[2]), part_length(x.shape[3])
        parts = [
            part for half in (x[:, :, :rows], x[:, :, -rows:]) for part in (half[..., :columns], half[..., -columns:])
        ]
        upper_left, upper_right, lower_left, lower_right = self.enhance(torch.cat(parts)).chunk(4)
        upper = joined(upper_left, upper_right, 3, x.shape[3])
        lower = joined(lower_left, lower_right, 3, x.shape[3])
        return joined(upper, lower, 2, x.shape[2])[:, :, :height, :width]

    def at_scale(self, scale: int) -> IMDNAS:
        """Return a network of another scale with copies of the weights, in eval mode."""
        network = IMDNAS(scale, self.LR_conv.out_channels).to(self.LR_conv.weight)
        network.load_state_dict(self.state_dict())
        return network.eval()


def part_length(length: int) -> int:
    """Return the side of a part of an image: at least half of ``length``, and a multiple of four."""
    return min(length // 2 + OVERLAP, length) // STRIDE * STRIDE


def joined(first: Tensor, second: Tensor, dim: int, length: int) -> Tensor:
    """Join the first half of an image of ``length`` pixels from one part with the second half from another."""
    half = length // 2
    return torch.cat(
        [first.narrow(dim, 0, half), second.narrow(dim, second.shape[dim] - length + half, length - half)], dim
    )


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor.

    The scale changes no shape: it is read from the metadata, and is 4 without them.
    """
    return {
        "scale": shuffle_scale(state, "upsampler.0.weight"),
        "n_feats": out_channels(state, "fea_conv.0.weight"),
    }


ARCHITECTURE = Architecture(
    name=IMDNAS.name,
    title="IMDN-AS",
    paper="Hui et al., ACM MM 2019",
    data_range=IMDNAS.data_range,
    scales=(1, 2, 3, 4),
    inference=IMDNAS,
    read_sizes=read_sizes,
    hidden_sizes=("scale",),
    tileable=False,
)
