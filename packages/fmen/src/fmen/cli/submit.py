"""``fmen submit``: build a challenge package; ``submit check`` and ``submit results``."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmen.cli.options import Data, Device, Model, Threads, Weights, examples
from fmen.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from fmen.submission.source import Origin


class Challenge(str, Enum):
    """A challenge whose package can be built."""

    ntire2022 = "ntire2022"
    ntire2026 = "ntire2026"


class Split(str, Enum):
    """The images of a challenge."""

    valid = "valid"
    test = "test"


Team = Annotated[Path | None, typer.Option(metavar="FILE", help="The team's team.yaml. Default: an example team.")]
Layout = Annotated[Challenge, typer.Option(help="The challenge whose rules apply.")]
ImageSplit = Annotated[Split, typer.Option(help="The images of the challenge.")]

submit_app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@submit_app.callback(invoke_without_command=True)
def submit(
    context: typer.Context,
    model: Model = None,
    weights: Weights = None,
    data: Data = None,
    team: Team = None,
    out: Annotated[Path, typer.Option(metavar="FILE.zip", help="The package.")] = Path("submission.zip"),
    layout: Layout = Challenge.ntire2022,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Build a challenge package and verify that it runs.

    Without a subcommand: pack the network, its weights, a script that runs them and the measured figures into one
    zip, and run that script in a process that cannot import fmen. Exit status 1 if PSNR is below the challenge's
    threshold.
    """
    if context.invoked_subcommand is not None:
        reject_misplaced_options(context)
    else:
        build(model, weights, data, team, out, layout, device, threads)


def reject_misplaced_options(context: typer.Context) -> None:
    """Refuse ``fmen submit --data DIR check``: the subcommand would ignore the option.

    Raises:
        UserError: An option is given before the subcommand.
    """
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            command = context.invoked_subcommand
            raise UserError(f"give options after the subcommand: fmen submit {command} [OPTIONS]")


def build(
    model: str | None,
    weights: Path | None,
    data: str | None,
    team: Path | None,
    out: Path,
    layout: Challenge,
    device: str,
    threads: int | None,
) -> None:
    """Build a package, and print its PSNR."""
    from fmen.submission.build import build_submission
    from fmen.threads import use_threads

    use_threads(threads)
    network, source = inputs(model, weights, data)
    report = build_submission(network, source, team, out, origin=origin_of(network), **settings(layout, device))
    for note in report.notes:
        typer.echo(note)
    typer.echo(f"{report.path}: PSNR {report.psnr:.4f} dB here, {report.package_psnr:.4f} dB from the unpacked package")
    if report.meets_threshold is False:
        raise typer.Exit(1)


@submit_app.command(
    epilog=examples("fmen submit check submission.zip --run-code", "fmen submit check results.zip --data sample")
)
def check(
    file: Annotated[Path, typer.Argument(metavar="ZIP", help="A package, or an archive of results.")],
    data: Annotated[
        str | None, typer.Option(metavar="DIR|sample", help="Images to measure PSNR on. Default: no PSNR.")
    ] = None,
    run_code: Annotated[
        bool, typer.Option("--run-code", help="Run the package's code, protected by bubblewrap where it is installed.")
    ] = False,
    layout: Annotated[
        Challenge | None,
        typer.Option(help="The challenge whose rules apply. Default: the one that the package names, or ntire2022."),
    ] = None,
    split: ImageSplit = Split.valid,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Check a package or an archive of results before the organisers do.

    With --run-code, the package's code runs in a separate process, which measures its figures. Exit status 1 if the
    organisers cannot use the file or if a declared figure is wrong.
    """
    from fmen.submission.check.run import check_submission, verdict
    from fmen.threads import use_threads
    from fmen_core.device import pick_device
    from fmen_data.datasets import parse_source

    use_threads(threads)
    source = None if data is None else parse_source(data)
    year = layout.value if layout else None
    cuda = pick_device(device).startswith("cuda")
    findings = check_submission(file, source, layout=year, split=split.value, run_code=run_code, cuda=cuda)
    for finding in findings:
        typer.echo(finding)
    typer.echo(verdict(file, findings))
    if any(finding.severity == "fatal" for finding in findings):
        raise typer.Exit(1)


@submit_app.command(
    epilog=examples("fmen submit results --weights fmen-s_x4", "fmen submit results --split test --out results.zip")
)
def results(
    model: Model = None,
    weights: Weights = None,
    data: Data = None,
    team: Team = None,
    out: Annotated[Path, typer.Option(metavar="FILE.zip", help="The archive.")] = Path("results.zip"),
    layout: Layout = Challenge.ntire2022,
    split: ImageSplit = Split.valid,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Write the archive of SR images for the evaluation server."""
    from fmen.submission.server_archive import build_results
    from fmen.threads import use_threads

    use_threads(threads)
    archive = build_results(*inputs(model, weights, data), team, out, split=split.value, **settings(layout, device))
    mean = "" if archive.psnr is None else f", PSNR {archive.psnr:.4f} dB"
    if archive.note:
        typer.echo(archive.note)
    typer.echo(f"{archive.path}: {archive.images} images of {archive.dataset}, {archive.seconds:.3f} s each{mean}")


def inputs(model: str | None, weights: Path | None, data: str | None) -> tuple[nn.Module, Any]:
    """The network and the dataset that the options name; the files are printed."""
    from fmen.sources.datasets import measured_source
    from fmen.sources.networks import load_network
    from fmen.sources.weights import choose_weights, is_bundled, weights_title

    file, source = choose_weights(weights, model=model), measured_source(data, scale=4)
    typer.echo(f"weights {weights_title(file)}, data {data or source}")
    if is_bundled(file):
        typer.echo(
            "note: these are the bundled weights, not yours; train with 'fmen train', or name yours with --weights"
        )
    return load_network(file, model, note=typer.echo), source


def origin_of(network: nn.Module) -> Origin | None:
    """Where the code of a user's network is; None for a network of this software."""
    from fmen.sources.networks import user_module
    from fmen.sources.python_file import module_name
    from fmen.submission.source import Origin

    found = user_module(network)
    if found is None:
        return None
    return Origin(found.file, found.class_name, found.args, sys.modules[module_name(found.file)])


def settings(layout: Challenge, device: str) -> dict[str, Any]:
    """The keyword arguments that building a package and an archive have in common."""
    return {"layout": layout.value, "device": device, "progress": sys.stderr.isatty()}
