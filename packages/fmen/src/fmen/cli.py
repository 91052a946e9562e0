"""The command line: one thin function per command.

Only the commands that need PyTorch import it, so that ``fmen --help`` answers at once. Input at fault ends with one
line on standard error and exit status 2; ``--debug`` or ``FMEN_DEBUG=1`` shows where it was noticed.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fmen.bench_cli import bench
from fmen.choices import Precision, Protocol
from fmen.data_cli import data_app
from fmen.doctor_cli import doctor
from fmen.export_cli import export
from fmen.report_cli import report
from fmen.upscale_cli import upscale
from fmen.weights_cli import weights_app

DEBUG = "FMEN_DEBUG"


class Commands(TyperGroup):
    """Turns what goes wrong in any command into one line and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        warnings.filterwarnings("ignore", "Detected pickle protocol")  # a line of ours follows, if that is a fault
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            fail("stopped", 130)
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            fail(describe(error), 2)
        except ValueError as error:
            fail(str(error), 2)


def fail(message: str, status: int) -> None:
    """Print one line, with the traceback before it when debugging, and exit."""
    if os.environ.get(DEBUG):
        traceback.print_exc()
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    raise typer.Exit(status)


def describe(error: OSError) -> str:
    """What the operating system refused, with the file and, where there is one, the remedy."""
    if error.filename is None:
        return error.strerror or str(error)
    remedies = {
        "FileNotFoundError": "check the path",
        "PermissionError": "check who may read and write there",
    }
    remedy = remedies.get(type(error).__name__, "free some space or write elsewhere" if error.errno == 28 else "")
    return f"{error.filename}: {error.strerror}" + (f"; {remedy}" if remedy else "")


def speaker() -> Callable[[str], None]:
    """Prints a line, in the first process of a distributed run alone."""
    return typer.echo if os.environ.get("RANK", "0") == "0" else lambda line: None


app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="FMEN, a fast and memory-efficient network for image super-resolution: train, validate, submit, upscale.",
)


class Variant(str, Enum):
    """FMEN-S or FMEN."""

    s = "s"
    full = "full"


class Challenge(str, Enum):
    """A challenge whose package can be built."""

    ntire2022 = "ntire2022"
    ntire2026 = "ntire2026"


class Split(str, Enum):
    """The images of a challenge."""

    valid = "valid"
    test = "test"


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


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False) -> None:
    """Options that every command has."""
    if debug:
        os.environ[DEBUG] = "1"


@app.command()
def train(
    variant: Annotated[Variant | None, typer.Option(help="s: FMEN-S; full: FMEN. Default: the recipe's.")] = None,
    scale: Annotated[int | None, typer.Option(help="2, 3 or 4. Default: the recipe's.")] = None,
    recipe: Annotated[str, typer.Option(help="paper, fast, cpu, quick, or a YAML file.")] = "fast",
    data: Annotated[
        list[str] | None, typer.Option(help="Training set: a folder, HR_DIR,LR_DIR or sample. May be repeated.")
    ] = None,
    val_data: Annotated[str | None, typer.Option(help="Validation set, likewise.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. Default: a new one under runs/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue --out, or else the newest run.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another value for a key of the recipe."),
    ] = None,
) -> None:
    """Train a network."""
    from fmen.recipe import load_recipe, parse_settings
    from fmen.runs import Run, new_run, newest_run, resumed_recipe

    given: dict[str, object] = {"variant": variant and variant.value, "scale": scale, "val_data": val_data}
    given["data"] = tuple(data) if data else None
    overrides = {key: value for key, value in given.items() if value is not None} | parse_settings(settings or [])
    if resume:
        run = Run(out) if out else newest_run()
        resolved = resumed_recipe(run, overrides)
    else:
        resolved = load_recipe(recipe, overrides)
        run = Run(out) if out else new_run(resolved)

    from fmen.trainer import train as run_training

    say = speaker()
    say(f"run {run.folder}: {resolved.network} x{resolved.scale}, {resolved.steps} steps")
    outcome = run_training(resolved, run, resume=resume)
    if outcome.signal is not None:
        remedy = f"fmen train --resume --out {run.folder}"
        typer.echo(f"stopped after step {outcome.step} of {resolved.steps}; continue with: {remedy}", err=True)
        raise typer.Exit(128 + outcome.signal)
    best = "" if outcome.best is None else f", best {outcome.best:.2f} dB ({resolved.val_protocol})"
    say(f"done: {outcome.step} steps{best}: {outcome.weights}")


@app.command()
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
    from fmen.validating import run_validation

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
        from fmen.runs import write_atomic

        write_atomic(json_file, (json.dumps(report.to_json(), indent=2) + "\n").encode())
    least = threshold if threshold is not None else report.challenge_threshold
    mean = f"mean PSNR {report.result.psnr:.2f} dB ({protocol.value})"
    if least is None:
        typer.echo(mean)
        return
    passed = report.passes(least)
    typer.echo(f"{mean} {'reaches' if passed else 'is below'} the threshold of {least:.2f} dB")
    if not passed:
        raise typer.Exit(1)


@app.command()
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
    from fmen.datasets import measured_source, parse_source

    if check is not None:
        from fmen.submission_check import check_submission

        source = None if data is None else parse_source(data)
        findings = check_submission(check, source, layout=layout.value, split=split.value, cuda=device != "cpu")
        for finding in findings:
            typer.echo(finding)
        if any(finding.severity == "fatal" for finding in findings):
            raise typer.Exit(1)
        return

    from fmen.weights import measured_weights

    weights, source = measured_weights(weights), measured_source(data, scale=4)
    typer.echo(f"weights {weights}, data {data or source}")
    shared: dict[str, Any] = {"layout": layout.value, "device": device, "progress": sys.stderr.isatty()}
    if results:
        from fmen.submission_results import build_results

        archive = build_results(weights, source, team, out or Path("results.zip"), split=split.value, **shared)
        mean = "" if archive.psnr is None else f", PSNR {archive.psnr:.4f} dB"
        typer.echo(f"{archive.path}: {archive.images} images of {archive.dataset}, {archive.seconds:.3f} s each{mean}")
        return

    from fmen.submission import build_submission

    report = build_submission(weights, source, team, out or Path("submission.zip"), **shared)
    for note in report.notes:
        typer.echo(note)
    typer.echo(f"{report.path}: PSNR {report.psnr:.4f} dB here, {report.package_psnr:.4f} dB from the unpacked package")
    if report.meets_threshold is False:
        raise typer.Exit(1)


@app.command()
def reparam(
    weights: Annotated[Path, typer.Argument(help="Weights of FMEN in its training form.")],
    out: Annotated[Path, typer.Argument(help="Where to write the inference form, as safetensors.")],
) -> None:
    """Convert to the inference form."""
    from fmen_core import FMEN, WeightsError, find_weights, load, read_metadata, reparameterize, save

    weights = find_weights(weights)
    model = load(weights)
    if not isinstance(model, FMEN):
        raise WeightsError(f"{weights}: holds {model.name} in its inference form already; nothing to re-parameterize")
    save(reparameterize(model), out, recipe=read_metadata(weights).get("recipe", ""))
    typer.echo(f"{out}: {model.name} x{model.scale}, inference form")


@app.command()
def models() -> None:
    """List the networks, with their parameters in the inference form at x4 and who they are by."""
    from fmen_core import create_model, model_names, reparameterize
    from fmen_core.checkpoint import known_architectures

    sources = {architecture.name: architecture.source for architecture in known_architectures()}
    sources["fmen-s"] = sources["fmen"]
    width = max(map(len, model_names()))
    typer.echo(f"{'network':<{width}}  parameters  by")
    for name in model_names():
        network = reparameterize(create_model(name))
        typer.echo(f"{name:<{width}}  {sum(weight.numel() for weight in network.parameters()):>10,}  {sources[name]}")


app.command()(bench)
app.command()(export)
app.command()(report)
app.command()(upscale)
app.command()(doctor)
app.add_typer(data_app, name="data")
app.add_typer(weights_app, name="weights")


def main() -> None:
    """The entry point of ``fmen``."""
    app()
