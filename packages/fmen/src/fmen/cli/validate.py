"""``fmen validate``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from fmen.cli.options import Device, Json, Model, Precision, Protocol, Threads, Weights, warn
from fmen.errors import UserError


def validate(
    weights: Weights = None,
    model: Model = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR|sample",
            help="Dataset folder, HR_DIR,LR_DIR or sample. Repeatable. Default: DIV2K's validation set under data/, or "
            "the sample.",
        ),
    ] = None,
    protocol: Annotated[Protocol, typer.Option(help="How PSNR and SSIM are computed.")] = Protocol.ntire,
    threshold: Annotated[
        float | None, typer.Option(metavar="DB", help="Exit with status 1 if a mean PSNR is below it.")
    ] = None,
    json_file: Json = None,
    save_images: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the SR images there.")] = None,
    precision: Annotated[Precision, typer.Option(help="Arithmetic of the convolutions.")] = Precision.fp32,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Measure PSNR and SSIM.

    On DIV2K's validation images at x4, protocol ntire, the challenge's threshold of 29.00 dB applies unless
    --threshold names another one.
    """
    from fmen.json_file import write_json
    from fmen.outputs import prepare_file
    from fmen.threads import use_threads
    from fmen.validation import reports_json, reports_table, run_validation

    use_threads(threads)
    if threshold is not None and not math.isfinite(threshold):
        raise UserError(f"--threshold {threshold}: give a number of dB")
    if json_file:
        prepare_file(json_file, ".json")
    reports = run_validation(
        weights,
        data or (),
        model=model,
        protocol=protocol.value,
        precision=precision.value,
        device=device,
        save_images=save_images,
        echo=typer.echo,
        note=warn,
    )
    typer.echo(reports_table(reports))
    if json_file:
        write_json(json_file, reports_json(reports))
    verdicts = [report.verdict(threshold) for report in reports]
    for report, (_, line) in zip(reports, verdicts, strict=True):
        typer.echo(line if len(reports) == 1 else f"{report.dataset}: {line}")
    if any(passed is False for passed, _ in verdicts):
        raise typer.Exit(1)
