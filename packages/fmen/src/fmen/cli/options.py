"""Options that several commands share."""

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


Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE.py:CLASS",
        help="The network of the weights. Only a network of your own must be named: its file and class.",
    ),
]
Weights = Annotated[
    Path | None, typer.Option(metavar="FILE|NAME", help="Trained weights. Default: the newest run's best.")
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|sample",
        help="Dataset folder, HR_DIR,LR_DIR or sample. Default: DIV2K's validation set under data/, or the sample.",
    ),
]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to run the network.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the results as JSON.")]
