"""The ``fmen`` command.

Commands import PyTorch when they run, so that ``fmen --help`` and shell completion are fast. Bad input ends with one
line on standard error and exit status 2; ``--debug`` or ``FMEN_DEBUG=1`` adds the traceback.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from fmen.cli.bench import bench
from fmen.cli.data import data_app
from fmen.cli.doctor import doctor
from fmen.cli.errors import DEBUG, Commands
from fmen.cli.export import export
from fmen.cli.models import models
from fmen.cli.reparam import reparam
from fmen.cli.report import report
from fmen.cli.submit import submit_app
from fmen.cli.train import TrainCommand, train
from fmen.cli.upscale import upscale
from fmen.cli.validate import validate
from fmen.cli.weights import weights_app

app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="FMEN, a fast and memory-efficient network for image super-resolution: train, validate, submit, upscale.",
)


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False) -> None:
    """Options of every command."""
    if debug:
        os.environ[DEBUG] = "1"


app.command(cls=TrainCommand)(train)
for command in (validate, upscale, bench, report, export, reparam, models, doctor):
    app.command()(command)
app.add_typer(submit_app, name="submit")
app.add_typer(data_app, name="data")
app.add_typer(weights_app, name="weights")


def main() -> None:
    """Run ``fmen``."""
    app()
