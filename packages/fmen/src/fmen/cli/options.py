"""What several commands let one choose between."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


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


Weights = Annotated[
    Path | None, typer.Option(metavar="FILE|NAME", help="Default: the best of the newest run under runs/.")
]
Data = Annotated[
    str | None,
    typer.Option(
        help="A dataset folder, HR_DIR,LR_DIR or sample. Default: DIV2K's validation set, or else the sample."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
