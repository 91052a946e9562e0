"""``fmen submit``."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from fmen.cli.options import Data, Device, Weights


class Challenge(str, Enum):
    """A challenge whose package can be built."""

    ntire2022 = "ntire2022"
    ntire2026 = "ntire2026"


class Split(str, Enum):
    """The images of a challenge."""

    valid = "valid"
    test = "test"


def submit(
    weights: Weights = None,
    data: Data = None,
    team: Annotated[Path | None, typer.Option(help="team.yaml; default: an example.")] = None,
    out: Annotated[Path | None, typer.Option(help="Default: submission.zip, or results.zip.")] = None,
    layout: Annotated[Challenge, typer.Option(help="The challenge.")] = Challenge.ntire2022,
    results: Annotated[bool, typer.Option("--results", help="Write the archive for the evaluation server.")] = False,
    split: Annotated[Split, typer.Option(help="With --results or --check: the images they are of.")] = Split.valid,
    check: Annotated[Path | None, typer.Option(metavar="ZIP", help="Check a submission instead.")] = None,
    device: Device = "auto",
) -> None:
    """Build a challenge submission, or check one."""
    from fmen.sources.datasets import measured_source
    from fmen_data.datasets import parse_source

    if check is not None:
        from fmen.submission.check.run import check_submission

        source = None if data is None else parse_source(data)
        findings = check_submission(check, source, layout=layout.value, split=split.value, cuda=device != "cpu")
        for finding in findings:
            typer.echo(finding)
        if any(finding.severity == "fatal" for finding in findings):
            raise typer.Exit(1)
        return

    from fmen.sources.weights import measured_weights

    weights, source = measured_weights(weights), measured_source(data, scale=4)
    typer.echo(f"weights {weights}, data {data or source}")
    shared: dict[str, Any] = {"layout": layout.value, "device": device, "progress": sys.stderr.isatty()}
    if results:
        from fmen.submission.server_archive import build_results

        archive = build_results(weights, source, team, out or Path("results.zip"), split=split.value, **shared)
        mean = "" if archive.psnr is None else f", PSNR {archive.psnr:.4f} dB"
        typer.echo(f"{archive.path}: {archive.images} images of {archive.dataset}, {archive.seconds:.3f} s each{mean}")
        return

    from fmen.submission.build import build_submission

    report = build_submission(weights, source, team, out or Path("submission.zip"), **shared)
    for note in report.notes:
        typer.echo(note)
    typer.echo(f"{report.path}: PSNR {report.psnr:.4f} dB here, {report.package_psnr:.4f} dB from the unpacked package")
    if report.meets_threshold is False:
        raise typer.Exit(1)
