"""``fmen validate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fmen.cli.options import Data, Device, Json, Precision, Protocol, Weights


def validate(
    weights: Weights = None,
    data: Data = None,
    protocol: Annotated[Protocol, typer.Option(help="How PSNR and SSIM are computed.")] = Protocol.ntire,
    threshold: Annotated[
        float | None, typer.Option(metavar="DB", help="Exit with status 1 if the mean PSNR is below it.")
    ] = None,
    json_file: Json = None,
    save_images: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the SR images there.")] = None,
    precision: Annotated[Precision, typer.Option(help="Arithmetic of the convolutions.")] = Precision.fp32,
    device: Device = "auto",
) -> None:
    """Measure PSNR and SSIM.

    On DIV2K's validation images at x4, protocol ntire, the challenge's threshold of 29.00 dB applies unless
    --threshold names another one.
    """
    from fmen.json_file import write_json
    from fmen.validation import run_validation

    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)  # fails before the measurement, not after
    report = run_validation(
        weights,
        data,
        protocol=protocol.value,
        precision=precision.value,
        device=device,
        save_images=save_images,
        echo=typer.echo,
    )
    typer.echo(report.result.table())
    if json_file:
        write_json(json_file, report.to_dict())
    passed, line = report.verdict(threshold)
    typer.echo(line)
    if passed is False:
        raise typer.Exit(1)
