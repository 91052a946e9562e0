"""MegSR's pruned RFDN in the NTIRE 2022 challenge on efficient super-resolution (team 40).

E-RFDN (Liu et al., ECCV Workshops 2020) pruned from 50 to 40 channels, with the original width of the attention, and
without the shortcuts inside the blocks. The challenge's report (Li et al., "NTIRE 2022 Challenge on Efficient
Super-Resolution: Methods and Results", CVPR Workshops 2022) describes it.
"""

from __future__ import annotations

from typing import Any

from fmen_core.architecture import Architecture, StateDict, shuffle_scale
from fmen_core.models.rfdn import RFDN


class RFDNPruned(RFDN):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 255]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    Args:
        scale: Upscaling factor.
    """

    name = "rfdn-pruned"

    def __init__(self, scale: int = 4) -> None:
        # The attention has a quarter of E-RFDN's 50 channels, which distinguishes these weights from a narrow E-RFDN.
        super().__init__(scale, n_feats=40, esa_feats=12, residual=False)


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    return {
        "scale": shuffle_scale(state, "upsampler.0.weight"),
    }


ARCHITECTURE = Architecture(
    name=RFDNPruned.name,
    title="MegSR (pruned RFDN)",
    paper="NTIRE 2022, team 40 MegSR; after Liu et al., ECCV Workshops 2020",
    data_range=RFDNPruned.data_range,
    scales=(2, 3, 4),
    inference=RFDNPruned,
    read_sizes=read_sizes,
    min_size=15,
    tileable=False,
)
