"""Table 2: attention in a chain of ERBs: none, CCA, ESA, and FMEN's HFAB."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from fmen.reproduction.published import FMEN_TABLE2
from fmen.reproduction.result import Experiment, Options, Result
from fmen.reproduction.variants import Variant, order, parameter_rows, time_rows, training_rows
from fmen_core.blocks.attention import ESA, ContrastAttention
from fmen_core.blocks.layers import conv3x3, pixel_shuffle_tail
from fmen_core.models.fmen import ERB

ATTENTIONS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda n_feats: nn.Identity(),
    "cca": lambda n_feats: ContrastAttention(n_feats, 16),
    "esa": lambda n_feats: ESA(n_feats, n_feats // 16),
}
"""Attention modules by name, from the channels."""


class Chain(nn.Module):
    """Maps RGB ``(N, 3, H, W)`` in ``[0, 255]`` to ``(N, 3, scale*H, scale*W)`` in the same range.

    ERBs between FMEN's first and last convolutions, with attention modules behind some of them.

    Args:
        scale: Upscaling factor.
        n_feats: Channels of the features.
        n_blocks: ERBs.
        attention: ``"none"``, ``"cca"`` or ``"esa"``.
        n_attentions: Attention modules, evenly spaced, the last one behind the last ERB.
    """

    data_range = 255.0

    def __init__(
        self, scale: int = 4, n_feats: int = 52, n_blocks: int = 15, attention: str = "none", n_attentions: int = 6
    ) -> None:
        super().__init__()
        self.scale = scale
        self.head = conv3x3(3, n_feats)
        places = {round((index + 1) * n_blocks / n_attentions) for index in range(n_attentions)}
        layers: list[nn.Module] = []
        for place in range(1, n_blocks + 1):
            layers.append(ERB(n_feats))
            if place in places and attention != "none":
                layers.append(ATTENTIONS[attention](n_feats))
        self.body = nn.Sequential(*layers)
        self.lr_conv = conv3x3(n_feats, n_feats)
        self.tail = pixel_shuffle_tail(n_feats, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch."""
        shallow = self.head(x)
        out: Tensor = self.tail(self.lr_conv(self.body(shallow)) + shallow)
        return out


PLACES = (
    "Six modules with 52 // 16 = 3 channels inside give both published counts, with CCA and with ESA. Their number and "
    "places are inferred from the counts."
)

TIMES = (
    "The times and PSNRs of the paper's Table 2 were not at hand and are not compared. FMEN is faster than the chains: "
    "it has four ERBs of 64 channels instead of fifteen of 52, and the ERBs in its HFABs have at most 32."
)

VARIANTS = (
    Variant("15 ERBs", Chain, {}, 779, FMEN_TABLE2),
    Variant("15 ERBs and CCA", Chain, {"attention": "cca"}, 782, FMEN_TABLE2, PLACES),
    Variant("15 ERBs and ESA", Chain, {"attention": "esa"}, 784, FMEN_TABLE2, PLACES),
    Variant("FMEN", "fmen", {}, 769, FMEN_TABLE2),
)


def run(options: Options) -> Result:
    """Count the parameters; measure times with ``options.runs``, and PSNR with ``options.steps``."""
    baselines = dict.fromkeys((variant.title for variant in VARIANTS), VARIANTS[0].title)
    times, conditions = time_rows(VARIANTS, options, (256, 256), baselines)
    psnr, curves = training_rows(VARIANTS, options)
    findings = {"PSNR": order(curves, "FMEN")} if curves else {}
    return Result([*parameter_rows(VARIANTS), *times, *psnr], [TIMES], conditions, findings=findings)


EXPERIMENT = Experiment("table2", "Table 2: attention in a chain of ERBs, x4", run)
