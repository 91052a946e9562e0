"""Options that several commands share."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from fmen.errors import UserError


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


def warn(line: str) -> None:
    """Print a line on standard error."""
    typer.echo(line, err=True)


Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE.py:CLASS",
        help="The network of the weights. Only a network of your own must be named: its file and class.",
    ),
]


class AutoPrecision(str, Enum):
    """A precision, or the fastest one on the device."""

    auto = "auto"
    fp32 = Precision.fp32.value
    bf16 = Precision.bf16.value
    fp16 = Precision.fp16.value


Weights = Annotated[
    Path | None,
    typer.Option(metavar="FILE|NAME", help="Trained weights. Default: the newest run's, or the bundled FMEN-S."),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|sample",
        help="Dataset folder, HR_DIR,LR_DIR or sample. Default: DIV2K's validation set under data/, or the sample.",
    ),
]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to run the network.")]
Threads = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="CPU threads. Default: one per core that is available.")
]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the results as JSON.")]


def matching(patterns: Sequence[str] | None, names: Sequence[str]) -> list[str]:
    """Return the names that match any of the patterns, in their own order; all of them without patterns.

    Raises:
        UserError: A pattern matches no name.
    """
    from fmen_core.errors import suggest

    for pattern in patterns or []:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"no match for {pattern!r}; {suggest(pattern.strip('*'), names)}")
    return [name for name in names if not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def examples(*lines: str) -> str:
    """Return the end of a command's help: commands to copy."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
