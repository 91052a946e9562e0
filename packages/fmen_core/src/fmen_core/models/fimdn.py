"""FIMDN, second in the AIM 2020 challenge on efficient super-resolution: IMDN with six blocks and asymmetric kernels.

Team AiriA_CG; Zhang et al., "AIM 2020 Challenge on Efficient Super-Resolution: Methods and Results", ECCV Workshops
2020. In training, every 3x3 convolution of a block is three parallel ones of 3x3, 1x3 and 3x1 pixels, which are then
merged. The merged network is the simplified IMDN of 2019 with six blocks: its parameters, FLOPs, activations and
convolutions are those of the report's table.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from fmen_core.architecture import Architecture, StateDict
from fmen_core.blocks.asymmetric import NormalizedACB
from fmen_core.models import imdn_baseline
from fmen_core.models.imdn_baseline import Block, IMDNBaseline

N_BLOCKS = 6


class FIMDN(IMDNBaseline):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 1]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
    """

    name = "fimdn"

    def __init__(self, scale: int = 4, n_feats: int = 64) -> None:
        super().__init__(scale, n_feats, N_BLOCKS)


class FIMDNTraining(FIMDN):
    """Training form. ``fmen_core.reparameterize`` converts it to :class:`FIMDN`; arguments as there."""

    def __init__(self, scale: int = 4, n_feats: int = 64) -> None:
        super().__init__(scale, n_feats)
        for block in list(self.modules()):
            if isinstance(block, Block):
                for parent, name in ((block.conv1, "0"), (block.conv2, "0"), (block.conv3, "0"), (block, "conv4")):
                    conv = parent.get_submodule(name)
                    assert isinstance(conv, nn.Conv2d)
                    parent.add_module(name, NormalizedACB(conv.in_channels, conv.out_channels))


def read_sizes(state: StateDict) -> dict[str, Any]:
    """Read the arguments of ``build`` from the shapes in a state dict; None stands for an absent tensor."""
    sizes = imdn_baseline.read_sizes(state)
    if sizes.pop("n_blocks") != N_BLOCKS:
        return {"scale": None}
    training = "model.1.sub.0.conv4.norm3x3.weight" in state
    return {**sizes, "form": "training" if training else "inference"}


ARCHITECTURE = Architecture(
    name=FIMDN.name,
    title="FIMDN",
    paper="Zhang et al., ECCV Workshops 2020, team AiriA_CG at AIM 2020",
    data_range=FIMDN.data_range,
    scales=(2, 3, 4),
    inference=FIMDN,
    training=FIMDNTraining,
    read_sizes=read_sizes,
)
