"""DISP of the NTIRE 2026 challenge on efficient super-resolution (team 18).

The blocks of TSR, with a 1x1 convolution after them; TSSR (NTIRE 2025, team 58) has the same layers and other weights.
The challenge's report is "The Eleventh NTIRE 2026 Efficient Super-Resolution Challenge Report", arXiv:2604.03198. This
is the inference form, after re-parameterization.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fmen_core.architecture import Architecture, StateDict, count, out_channels, shuffle_scale
from fmen_core.blocks.layers import conv1x1
from fmen_core.models.tsr import TSR


class DISP(TSR):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)``.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
        n_blocks: Number of blocks.
    """

    name = "disp"

    def __init__(self, scale: int = 4, n_feats: int = 32, n_blocks: int = 4) -> None:
        super().__init__(scale, n_feats, n_blocks)
        self.conv_2 = conv1x1(n_feats, n_feats)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        # All features stay referenced, as in the published code, whose peak memory is measured.
        features = [self.conv_1(x)]
        for block in self.blocks:
            features.append(block(features[-1]))
        fused = self.conv_2(features[-1]).add_(features[0])
        out: Tensor = self.upsampler(fused)
        return out


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    return {
        "scale": shuffle_scale(state, "upsampler.0.weight"),
        "n_feats": out_channels(state, "conv_1.eval_conv.weight"),
        "n_blocks": count(state, r"blocks\.\d+\.c1_r\.eval_conv\.weight"),
    }


ARCHITECTURE = Architecture(
    name=DISP.name,
    title="DISP",
    paper="NTIRE 2026, team 18; the architecture of TSSR, NTIRE 2025, team 58",
    data_range=DISP.data_range,
    scales=(2, 3, 4),
    inference=DISP,
    read_sizes=read_sizes,
)
