"""Published figures of the FMEN paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

PAPER = 'Du et al., "Fast and Memory-Efficient Network Towards Efficient Image Super-Resolution", 2022'
FMEN_TABLE1 = f"{PAPER}, Table 1"
FMEN_TABLE2 = f"{PAPER}, Table 2"
FMEN_TABLE3 = f"{PAPER}, Table 3"
FMEN_ANALYSIS = f"{PAPER}, Section 3.1"

Triple = tuple[float, float, float]
"""Figures at x2, x3 and x4."""

EXACT = 1280 / 3
"""Width of the LR image at x3 if the multiply-adds are those of exactly 1280x720 pixels."""


@dataclass(frozen=True)
class Published:
    """Published parameters and multiply-adds of a network, for an HR image of 1280x720.

    Attributes:
        network: Name of the architecture.
        params: Thousands of parameters, by scale.
        macs: Billions of multiply-adds, by scale.
        counted: Which parameters count: all, those of convolutions, or the weights of convolutions without biases.
        shared: Whether the published network has the layers of all three scales.
        x3_width: Width of the LR image at x3.
        params_note: Why our parameters differ, or what is counted.
        macs_note: The same of the multiply-adds.
    """

    network: str
    params: Triple
    macs: Triple
    counted: Literal["all", "convolutions", "weights"] = "all"
    shared: bool = False
    x3_width: float = 427
    params_note: str = ""
    macs_note: str = ""


SRCNN_PARAMETERS = (
    "The published count fits kernels of 9x9, 1x1 and 5x5 pixels, 8.0K; the multiply-adds are those of 9x9, 5x5 and "
    "5x5 pixels."
)

DRCN_PARAMETERS = "The published count fits that of the convolutions' weights, without biases."

DRCN_MACS = "The published figure fits one reconstruction instead of sixteen: 9,788.7G."

LAPSRN = (
    "At x2, both published figures fit a network for RGB with five 3x3 convolutions instead of ten: 253.4K and 104.9G; "
    "those of x3 and x4 are unexplained."
)

MEMNET_PARAMETERS = "The published count fits that of the convolutions, without BatchNorms."

MEMNET_MACS = "The published figure fits one application of every weight instead of one per recursion: 623.9G."

IDN = (
    "All published figures fit a network for RGB that ends with a 3x3 and a sub-pixel convolution instead of the "
    "transposed one, such as 600.0K and 34.5G at x4."
)

CARN_PARAMETERS = "The published network has the upsampling layers of all three scales."

RFDN_MACS = (
    "The published figures fit a count with the biases and with the weights of the attention at every LR pixel: "
    "123.0G, 55.4G and 31.6G."
)

TABLE3 = (
    Published("srcnn", (8, 8, 8), (52.7, 52.7, 52.7), x3_width=EXACT, params_note=SRCNN_PARAMETERS),
    Published("fsrcnn", (13, 13, 13), (6.0, 5.0, 4.6)),
    Published("vdsr", (666, 666, 666), (612.6, 612.6, 612.6), x3_width=EXACT),
    Published(
        "drcn",
        (1774, 1774, 1774),
        (9788.7, 9788.7, 9788.7),
        counted="weights",
        x3_width=EXACT,
        params_note=DRCN_PARAMETERS,
        macs_note=DRCN_MACS,
    ),
    Published("lapsrn", (253, 290, 543), (104.9, 115.0, 139.3), params_note=LAPSRN, macs_note=LAPSRN),
    Published("drrn", (298, 298, 298), (6796.9, 6796.9, 6796.9), x3_width=EXACT),
    Published(
        "memnet",
        (678, 678, 678),
        (623.9, 623.9, 623.9),
        counted="convolutions",
        x3_width=EXACT,
        params_note=MEMNET_PARAMETERS,
        macs_note=MEMNET_MACS,
    ),
    Published("idn", (579, 588, 600), (133.0, 60.1, 34.5), params_note=IDN, macs_note=IDN),
    Published("edsr-baseline", (1370, 1554, 1518), (316.2, 160.4, 114.2)),
    Published("carn", (1592, 1592, 1592), (222.8, 118.9, 90.9), shared=True, params_note=CARN_PARAMETERS),
    Published("imdn", (694, 703, 715), (158.8, 71.5, 40.9)),
    Published("latticenet", (756, 765, 777), (169.5, 76.3, 43.6)),
    Published("rfdn-cca", (534, 541, 550), (123.0, 55.4, 31.6), macs_note=RFDN_MACS),
    Published("fmen", (748, 757, 769), (172.0, 77.2, 44.2), x3_width=426),
)
"""Parameters and multiply-adds of Table 3."""

ACCURACY: Mapping[tuple[str, str], tuple[tuple[float, float], ...]] = {
    ("SRCNN", "Set5"): ((36.66, 0.9542), (32.75, 0.9090), (30.48, 0.8626)),
    ("SRCNN", "Set14"): ((32.45, 0.9067), (29.30, 0.8215), (27.50, 0.7513)),
    ("FSRCNN", "Set5"): ((37.00, 0.9558), (33.18, 0.9140), (30.72, 0.8660)),
    ("FSRCNN", "Set14"): ((32.63, 0.9088), (29.37, 0.8240), (27.61, 0.7550)),
    ("VDSR", "Set5"): ((37.53, 0.9587), (33.66, 0.9213), (31.35, 0.8838)),
    ("VDSR", "Set14"): ((33.03, 0.9124), (29.77, 0.8314), (28.01, 0.7674)),
    ("DRCN", "Set5"): ((37.63, 0.9588), (33.82, 0.9226), (31.53, 0.8854)),
    ("DRCN", "Set14"): ((33.04, 0.9118), (29.76, 0.8311), (28.02, 0.7670)),
    ("LapSRN", "Set5"): ((37.52, 0.9591), (33.81, 0.9220), (31.54, 0.8852)),
    ("LapSRN", "Set14"): ((32.99, 0.9124), (29.79, 0.8325), (28.09, 0.7700)),
    ("DRRN", "Set5"): ((37.74, 0.9591), (34.03, 0.9244), (31.68, 0.8888)),
    ("DRRN", "Set14"): ((33.23, 0.9136), (29.96, 0.8349), (28.21, 0.7720)),
    ("MemNet", "Set5"): ((37.78, 0.9597), (34.09, 0.9248), (31.74, 0.8893)),
    ("MemNet", "Set14"): ((33.28, 0.9142), (30.00, 0.8350), (28.26, 0.7723)),
    ("IDN", "Set5"): ((37.83, 0.9600), (34.14, 0.9259), (31.93, 0.8923)),
    ("IDN", "Set14"): ((33.30, 0.9148), (30.13, 0.8383), (28.45, 0.7781)),
    ("EDSR-baseline", "Set5"): ((37.91, 0.9602), (34.28, 0.9263), (31.98, 0.8927)),
    ("EDSR-baseline", "Set14"): ((33.53, 0.9172), (30.24, 0.8405), (28.55, 0.7805)),
    ("CARN", "Set5"): ((37.76, 0.9590), (34.29, 0.9255), (32.13, 0.8937)),
    ("CARN", "Set14"): ((33.52, 0.9166), (30.29, 0.8407), (28.60, 0.7806)),
    ("IMDN", "Set5"): ((38.00, 0.9605), (34.36, 0.9270), (32.21, 0.8948)),
    ("IMDN", "Set14"): ((33.63, 0.9177), (30.32, 0.8417), (28.58, 0.7811)),
    ("LatticeNet", "Set5"): ((38.15, 0.9610), (34.53, 0.9281), (32.30, 0.8962)),
    ("LatticeNet", "Set14"): ((33.78, 0.9193), (30.39, 0.8424), (28.68, 0.7830)),
    ("RFDN", "Set5"): ((38.05, 0.9606), (34.41, 0.9273), (32.24, 0.8952)),
    ("RFDN", "Set14"): ((33.68, 0.9184), (30.34, 0.8420), (28.61, 0.7819)),
    ("FMEN", "Set5"): ((38.10, 0.9609), (34.45, 0.9275), (32.24, 0.8955)),
    ("FMEN", "Set14"): ((33.75, 0.9192), (30.40, 0.8435), (28.70, 0.7839)),
}
"""PSNR in dB and SSIM of Table 3 at x2, x3 and x4, by network and dataset."""
