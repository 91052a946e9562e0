"""``fmen export``: its command line."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class FileFormat(str, Enum):
    """A format that other programs read."""

    onnx = "onnx"
    torchscript = "torchscript"
    safetensors = "safetensors"
    pth = "pth"
    pth_challenge = "pth-challenge"


def export(
    weights: Annotated[Path, typer.Argument(metavar="FILE|NAME", help="Weights of any network, in either form.")],
    file_format: Annotated[FileFormat, typer.Option("--format", help="pth: the names of FMEN's authors' repository.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    data_range: Annotated[
        float | None,
        typer.Option(
            metavar="1|255",
            help="White at input and output, for onnx and torchscript. Default: the network's own; chaiNNer wants 1.",
        ),
    ] = None,
) -> None:
    """Write weights for other programs, and compare what they give."""
    from fmen.export.run import export_weights
    from fmen_core import find_weights

    exported = export_weights(find_weights(weights), out, file_format.value, data_range=data_range)
    typer.echo(f"{exported.path}: {exported.content}")
    typer.echo(f"checked with {exported.reader} against PyTorch: {exported.difference}")
