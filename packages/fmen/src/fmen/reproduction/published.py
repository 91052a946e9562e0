"""Published figures, with their sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FMEN = 'Du et al., "Fast and Memory-Efficient Network Towards Efficient Image Super-Resolution", 2022, Table 3'
FMEN_TABLE2 = 'Du et al., "Fast and Memory-Efficient Network Towards Efficient Image Super-Resolution", 2022, Table 2'
FMEN_ANALYSIS = (
    'Du et al., "Fast and Memory-Efficient Network Towards Efficient Image Super-Resolution", 2022, Section 3.1'
)
ASSL = 'Zhang et al., "Aligned Structured Sparsity Learning for Efficient Image Super-Resolution", 2021, Table 3'
SWINIR = 'Liang et al., "SwinIR: Image Restoration Using Swin Transformer", 2021, Table 3'
CFSR = "the README of Wu et al., CFSR, 2024 (github.com/Aitical/CFSR)"
EDSR = "the README of Lim et al., EDSR-PyTorch (github.com/sanghyun-son/EDSR-PyTorch)"

WEIGHTS_ALONE = "The published count fits that of the convolutions' weights, without biases and BatchNorms."


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
        lr_width: Width of the LR image; for x3 it is 1280 / 3, or that rounded up or down, by the paper.
        sizes: Sizes of the architecture, if they are not its defaults.
        weights_alone: Whether biases and BatchNorms are not counted.
        scales: The scales of a network with the layers of all of them; otherwise empty.
        digits: Decimals of ``params`` in thousands, negative for a rounded figure.
        params_note: Why our parameters differ, or what is counted.
        macs_note: The same of the multiply-adds.
    """

    network: str
    title: str
    scale: int
    params: float | None
    macs: float | None
    source: str
    lr_width: float
    sizes: Mapping[str, Any] = field(default_factory=dict)
    weights_alone: bool = False
    scales: tuple[int, ...] = ()
    digits: int = 0
    params_note: str = ""
    macs_note: str = ""


def old(network: str, title: str, params: int, macs: tuple[float, ...], note: str = "") -> list[Published]:
    """Return the entries of a network of before 2018, whose count is that of the CARN paper, at x2, x3 and x4."""
    return [
        Published(
            network,
            title,
            scale,
            params,
            macs[scale - 2],
            ASSL,
            1280 / scale,
            weights_alone=True,
            params_note=WEIGHTS_ALONE,
            macs_note=note,
        )
        for scale in (2, 3, 4)
    ]


CARN_PARAMETERS = "The published network has the upsampling layers of all three scales."

LAPSRN_PARAMETERS = (
    "Published for both scales; LapSRN has one level at x2, two at x4. With 3x3 instead of 4x4 kernels in its "
    "transposed convolutions, x4 has 813K weights."
)

LAPSRN_X2_MACS = (
    "The published figure fits one level of the pyramid from 320x180 to 640x360 pixels, not to 1280x720, with a "
    "3x3 kernel in the transposed convolution: 29.9G."
)

LAPSRN_X4_MACS = "With 3x3 instead of 4x4 kernels in the transposed convolutions, x4 has 149.3G."

MEMNET_MACS = "Ours is 2,662.348G; 64 multiply-adds more per pixel would be the published figure."

IDN_MACS = (
    "The published figure fits an IDN for RGB with a sub-pixel convolution at its end instead of the transposed "
    "one: 561,344 weights at 320x180 pixels."
)

EDSR_MACS = (
    "Ours is 316.249G. The published figure fits a count with the two 1x1 convolutions that subtract and add the mean "
    "color, which are additions here."
)

RFDN_MACS = (
    "550K parameters are 31.1G, since all 3x3 convolutions run at 320x180 pixels. The published figure is near that of "
    "E-RFDN, which has four blocks of 50 channels: 23.8G."
)

TABLE3 = (
    *old("srcnn", "SRCNN", 57, (52.7, 52.7, 52.7)),
    *old("fsrcnn", "FSRCNN", 12, (6.0, 5.0, 4.6)),
    *old("vdsr", "VDSR", 665, (612.6, 612.6, 612.6)),
    *old("drcn", "DRCN", 1774, (17974.3, 17974.3, 17974.3)),
    Published("lapsrn", "LapSRN", 2, 813, 29.9, ASSL, 640, params_note=LAPSRN_PARAMETERS, macs_note=LAPSRN_X2_MACS),
    Published("lapsrn", "LapSRN", 3, None, None, ASSL, 1280 / 3),
    Published("lapsrn", "LapSRN", 4, 813, 149.4, ASSL, 320, params_note=LAPSRN_PARAMETERS, macs_note=LAPSRN_X4_MACS),
    *old("drrn", "DRRN", 297, (6796.9, 6796.9, 6796.9)),
    *old("memnet", "MemNet", 677, (2662.4, 2662.4, 2662.4), MEMNET_MACS),
    Published("idn", "IDN", 2, None, None, CFSR, 640),
    Published("idn", "IDN", 3, None, None, CFSR, 1280 / 3),
    Published("idn", "IDN", 4, 553, 32.3, CFSR, 320, macs_note=IDN_MACS),
    Published("edsr-baseline", "EDSR-baseline", 2, 1370, 316.3, ASSL, 640, macs_note=EDSR_MACS),
    Published("edsr-baseline", "EDSR-baseline", 3, 1550, None, EDSR, 1280 / 3, digits=-1),
    Published("edsr-baseline", "EDSR-baseline", 4, 1520, None, EDSR, 320, digits=-1),
    Published("carn", "CARN", 2, 1592, 222.8, SWINIR, 640, scales=(2, 3, 4), params_note=CARN_PARAMETERS),
    Published("carn", "CARN", 3, 1592, 118.8, SWINIR, 1280 / 3, scales=(2, 3, 4), params_note=CARN_PARAMETERS),
    Published("carn", "CARN", 4, 1592, 90.9, SWINIR, 320, scales=(2, 3, 4), params_note=CARN_PARAMETERS),
    Published("imdn", "IMDN", 2, 694, 158.8, SWINIR, 640),
    Published("imdn", "IMDN", 3, 703, 71.5, SWINIR, 427),
    Published("imdn", "IMDN", 4, 715, 40.9, SWINIR, 320),
    Published("latticenet", "LatticeNet", 2, 756, 169.5, SWINIR, 640),
    Published("latticenet", "LatticeNet", 3, 765, 76.3, SWINIR, 427),
    Published("latticenet", "LatticeNet", 4, 777, 43.6, SWINIR, 320),
    Published("rfdn-cca", "RFDN", 2, None, None, CFSR, 640),
    Published("rfdn-cca", "RFDN", 3, None, None, CFSR, 1280 / 3),
    Published("rfdn-cca", "RFDN", 4, 550, 23.9, CFSR, 320, macs_note=RFDN_MACS),
    Published("fmen", "FMEN", 2, 748, 172.0, FMEN, 640),
    Published("fmen", "FMEN", 3, 757, 77.2, FMEN, 426),
    Published("fmen", "FMEN", 4, 769, 44.2, FMEN, 320),
)
"""Table 3 by network and scale. LapSRN is not defined for x3 in its paper."""

ACCURACY: Mapping[tuple[str, int, str], tuple[float, float, str]] = {
    ("CARN", 2, "Set5"): (37.76, 0.9590, SWINIR),
    ("CARN", 2, "Set14"): (33.52, 0.9166, SWINIR),
    ("CARN", 3, "Set5"): (34.29, 0.9255, SWINIR),
    ("CARN", 3, "Set14"): (30.29, 0.8407, SWINIR),
    ("CARN", 4, "Set5"): (32.13, 0.8937, SWINIR),
    ("CARN", 4, "Set14"): (28.60, 0.7806, SWINIR),
    ("IMDN", 2, "Set5"): (38.00, 0.9605, SWINIR),
    ("IMDN", 2, "Set14"): (33.63, 0.9177, SWINIR),
    ("IMDN", 3, "Set5"): (34.36, 0.9270, SWINIR),
    ("IMDN", 3, "Set14"): (30.32, 0.8417, SWINIR),
    ("IMDN", 4, "Set5"): (32.21, 0.8948, SWINIR),
    ("IMDN", 4, "Set14"): (28.58, 0.7811, SWINIR),
    ("LatticeNet", 2, "Set5"): (38.15, 0.9610, SWINIR),
    ("LatticeNet", 2, "Set14"): (33.78, 0.9193, SWINIR),
    ("LatticeNet", 3, "Set5"): (34.53, 0.9281, SWINIR),
    ("LatticeNet", 3, "Set14"): (30.39, 0.8424, SWINIR),
    ("LatticeNet", 4, "Set5"): (32.30, 0.8962, SWINIR),
    ("LatticeNet", 4, "Set14"): (28.68, 0.7830, SWINIR),
}
"""Published PSNR in dB and SSIM by network, scale and dataset, with their source."""
