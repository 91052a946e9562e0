"""The ``fmen`` command.

Commands import PyTorch when they run, so that ``fmen --help`` and shell completion are fast. Bad input ends with one
line on standard error and exit status 2; ``--debug`` or ``FMEN_DEBUG=1`` adds the traceback.
"""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from fmen import __version__
from fmen.cli.bench import bench
from fmen.cli.data import data_app
from fmen.cli.doctor import doctor
from fmen.cli.errors import DEBUG, Commands
from fmen.cli.export import export
from fmen.cli.models import models
from fmen.cli.options import examples
from fmen.cli.prune import prune
from fmen.cli.reparam import reparam
from fmen.cli.report import report
from fmen.cli.reproduce import reproduce
from fmen.cli.submit import submit_app
from fmen.cli.train import TrainCommand, train
from fmen.cli.upscale import upscale
from fmen.cli.validate import validate
from fmen.cli.weights import weights_app

SECTIONS = {
    "Use a network": ("upscale", "weights", "models"),
    "Train one": ("data", "train", "validate", "report"),
    "Take part in a challenge": ("bench", "submit"),
}
"""The commands in the order in which they are used; all others follow under "More"."""

EXAMPLES = {
    "upscale": ("fmen upscale photo.jpg -o photo_x4.png", "fmen upscale photos -o enlarged --scale 2 --format jpg"),
    "models": ("fmen models", "fmen models 'span*'"),
    "train": ("fmen train --recipe quick --data sample", "fmen train --recipe cpu --data photos --val-data Set5"),
    "validate": ("fmen validate --data sample", "fmen validate --weights fmen-s_x4 --data Set5 --protocol paper"),
    "report": ("fmen report", "fmen report --weights fmen-s_x4 --data Set5 --protocol paper --out set5.html"),
    "bench": ("fmen bench --models fmen-s,span,rfdn", "fmen bench --weights fmen-s_x4 --data Set5 --plot bench.png"),
    "submit": (
        "fmen submit --weights fmen-s_x4 --team team.yaml --out submission.zip",
        "fmen submit check submission.zip --run-code",
    ),
    "export": (
        "fmen export fmen-s_x4 --format onnx --out fmen-s_x4.onnx",
        "fmen export best.safetensors --format pth --out fmen.pth",
    ),
    "reparam": (
        "fmen reparam runs/NAME/best.safetensors inference.safetensors",
        "fmen reparam last.safetensors inference.safetensors",
    ),
    "prune": (
        "fmen prune fmen-s_x4 --channels 44 --out runs/narrow",
        "fmen prune fmen-s_x4 --ratio 0.1 --data photos --minutes 30 --out runs/narrow",
    ),
    "reproduce": ("fmen reproduce table3", "fmen reproduce all --out reproduction --page reproduction.md"),
    "doctor": ("fmen doctor", "fmen --debug doctor"),
}


class Sections(Commands):
    """The group of all commands; its help lists them by section."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands in the order of their use."""
        listed = [name for names in SECTIONS.values() for name in names]
        return [*listed, *sorted(set(self.commands) - set(listed))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, whose help names arguments without their Python types."""
        command = super().get_command(ctx, cmd_name)
        for part in () if command is None else (command, *getattr(command, "commands", {}).values()):
            for parameter in part.params:
                if parameter.param_type_name == "argument":
                    parameter.display_type_rich = lambda ctx: None
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands."""
        more = [name for name in self.list_commands(ctx) if not any(name in names for names in SECTIONS.values())]
        width = max(map(len, self.commands))
        for title, names in (SECTIONS | {"More": tuple(more)}).items():
            with formatter.section(title):
                limit = formatter.width - width - 6
                formatter.write_dl(
                    [(name.ljust(width), self.commands[name].get_short_help_str(limit)) for name in names]
                )


app = typer.Typer(
    cls=Sections,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Enlarge images with FMEN, a fast and memory-efficient network, and train, measure and submit networks.",
    epilog="'fmen COMMAND --help' shows the options of a command, with examples.",
)


def show_version(wanted: bool) -> None:
    """Print the version and exit."""
    if wanted:
        typer.echo(f"fmen {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=show_version, is_eager=True)
    ] = False,
) -> None:
    """Options of every command."""
    if debug:
        os.environ[DEBUG] = "1"


for command in (train, validate, upscale, bench, report, export, prune, reparam, reproduce, models, doctor):
    kind = TrainCommand if command is train else None
    app.command(cls=kind, epilog=examples(*EXAMPLES[command.__name__]))(command)
app.add_typer(submit_app, name="submit", epilog=examples(*EXAMPLES["submit"]))
app.add_typer(data_app, name="data")
app.add_typer(weights_app, name="weights")


def main() -> None:
    """Run ``fmen``."""
    app()
