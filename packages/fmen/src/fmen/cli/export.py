"""``fmen export``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from fmen.cli.options import Model, Threads, warn


class FileFormat(str, Enum):
    """The format of an exported file."""

    onnx = "onnx"
    torchscript = "torchscript"
    openvino = "openvino"
    safetensors = "safetensors"
    pth = "pth"
    pth_challenge = "pth-challenge"


def export(
    file_format: Annotated[
        FileFormat, typer.Option("--format", help="Format of the file. pth: the names of FMEN's authors' repository.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write.")],
    weights: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE|NAME]",
            help="Weights of any network, in either form. Default: the newest run's, or the bundled FMEN-S.",
            show_default=False,
        ),
    ] = None,
    model: Model = None,
    data_range: Annotated[
        float | None,
        typer.Option(
            metavar="1|255",
            help="Value of white, for onnx, torchscript, openvino. Default: the network's own; chaiNNer requires 1.",
        ),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Compute most convolutions in int8, for openvino; needs --calibrate.")
    ] = False,
    calibrate: Annotated[
        str | None,
        typer.Option(metavar="DIR|sample", help="HR images that int8 is adapted to, such as a training set."),
    ] = None,
    int8_steps: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Training steps of int8; 0 takes seconds and loses more. Default: 200."),
    ] = None,
    threads: Threads = None,
) -> None:
    """Export a network to ONNX and other formats.

    The exported file is loaded again and compared with PyTorch.
    """
    from fmen.export.run import STEPS, ExportError, Int8, export_weights
    from fmen.sources.weights import choose_weights, weights_title
    from fmen.threads import use_threads

    if int8 != (calibrate is not None):
        raise ExportError("--int8 and --calibrate DIR belong together; name a folder of HR images")
    if int8_steps is not None and not int8:
        raise ExportError("--int8-steps is for --int8; leave it out")
    quantization = Int8(calibrate, STEPS if int8_steps is None else int8_steps) if calibrate else None
    use_threads(threads)
    file = choose_weights(weights, model=model)
    typer.echo(f"weights {weights_title(file)}")
    exported = export_weights(
        file, out, file_format.value, data_range=data_range, int8=quantization, model=model, note=warn
    )
    typer.echo(f"{exported.path}: {exported.content}")
    typer.echo(f"checked with {exported.reader} against PyTorch: {exported.difference}")
