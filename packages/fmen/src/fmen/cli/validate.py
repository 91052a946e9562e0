"""``fmen validate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fmen.cli.options import Data, Device, Precision, Protocol, Weights


def validate(
    weights: Weights = None,
    data: Data = None,
    protocol: Annotated[Protocol, typer.Option(help="How to measure.")] = Protocol.ntire,
    threshold: Annotated[float | None, typer.Option(help="Least mean PSNR in dB; exit status 1 below it.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result there.")] = None,
    save_images: Annotated[Path | None, typer.Option(help="Write the upscaled images into that folder.")] = None,
    precision: Annotated[Precision, typer.Option(help="Arithmetic of the convolutions.")] = Precision.fp32,
    device: Device = "auto",
) -> None:
    """Measure PSNR and SSIM."""
    from fmen.validation import run_validation

    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
    report = run_validation(
        weights,
        data,
        protocol=protocol.value,
        precision=precision.value,
        device=device,
        save_images=save_images,
        say=typer.echo,
    )
    typer.echo(report.result.table())
    if json_file:
        from fmen_data.atomic import atomic_write_bytes

        atomic_write_bytes(json_file, (json.dumps(report.to_json(), indent=2) + "\n").encode())
    least = threshold if threshold is not None else report.challenge_threshold
    mean = f"mean PSNR {report.result.psnr:.2f} dB ({protocol.value})"
    if least is None:
        typer.echo(mean)
        return
    passed = report.passes(least)
    typer.echo(f"{mean} {'reaches' if passed else 'is below'} the threshold of {least:.2f} dB")
    if not passed:
        raise typer.Exit(1)
