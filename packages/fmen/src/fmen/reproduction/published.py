"""Published figures, with their sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FMEN = 'Du et al., "Fast and Memory-Efficient Network Towards Efficient Image Super-Resolution", 2022, Table 3'
IMDN = 'Hui et al., "Lightweight Image Super-Resolution with Information Multi-distillation Network", 2019'


@dataclass(frozen=True)
class Published:
    """Published parameters and multiply-adds of a network at one scale.

    Attributes:
        network: Name of the architecture.
        title: Name in the table.
        scale: Upscaling factor.
        params: Thousands of parameters; None if they are not published or not confirmed.
        macs: Billions of multiply-adds for an HR image of 1280x720; None as above.
        source: Where they are published.
        lr_width: Width of the LR image. 1280 / 3 is rounded down by some papers and up by others.
        sizes: Sizes of the architecture, if they are not its defaults.
        params_note: Why our parameters differ.
        macs_note: Why our multiply-adds differ.
    """

    network: str
    title: str
    scale: int
    params: float | None
    macs: float | None
    source: str
    lr_width: int
    sizes: Mapping[str, Any] = field(default_factory=dict)
    params_note: str = ""
    macs_note: str = ""


TABLE3 = (
    Published("imdn", "IMDN", 2, 694, 158.8, IMDN, 640),
    Published("imdn", "IMDN", 3, 703, 71.5, IMDN, 427),
    Published("imdn", "IMDN", 4, 715, 40.9, IMDN, 320),
    Published("fmen", "FMEN", 2, 748, 172.0, FMEN, 640),
    Published("fmen", "FMEN", 3, 757, 77.2, FMEN, 426),
    Published("fmen", "FMEN", 4, 769, 44.2, FMEN, 320),
)
