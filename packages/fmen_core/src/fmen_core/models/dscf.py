"""DSCF of the NTIRE 2025 challenge on efficient super-resolution (team 23).

SPAN (Wan et al., CVPR Workshops 2024) with 26 channels, trained by distillation. The challenge's report is Ren et al.,
"The Tenth NTIRE 2025 Efficient Super-Resolution Challenge Report", CVPR Workshops 2025. This is the inference form,
after re-parameterization.
"""

from __future__ import annotations

from typing import Any

from fmen_core.architecture import Architecture, StateDict, shuffle_scale
from fmen_core.models.span import SPAN


class DSCF(SPAN):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)``.

    Args:
        scale: Upscaling factor.
    """

    name = "dscf"

    def __init__(self, scale: int = 4) -> None:
        super().__init__(scale, n_feats=26)


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    return {"scale": shuffle_scale(state, "upsampler.0.weight")}


ARCHITECTURE = Architecture(
    name=DSCF.name,
    title="DSCF",
    paper="NTIRE 2025, team 23; after Wan et al., CVPR Workshops 2024",
    data_range=DSCF.data_range,
    scales=(2, 3, 4),
    inference=DSCF,
    read_sizes=read_sizes,
)
