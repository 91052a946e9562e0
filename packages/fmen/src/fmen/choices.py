"""What several commands let one choose between."""

from __future__ import annotations

from enum import Enum


class Protocol(str, Enum):
    """How PSNR and SSIM are computed."""

    ntire = "ntire"
    paper = "paper"
    kair_y = "kair-y"


class Precision(str, Enum):
    """Arithmetic of the convolutions."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"
