"""``fmen reproduce``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fmen.cli.options import Device, Threads
from fmen.errors import UserError

if TYPE_CHECKING:
    from fmen.reproduction.result import Options


def reproduce(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME|all", help="The table or figure. Default: list the names.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for NAME.json and images. Rows of earlier runs stay.")
    ] = None,
    page: Annotated[Path | None, typer.Option(metavar="FILE.md", help="Write a page of all results in --out.")] = None,
    runs: Annotated[int, typer.Option(metavar="N", min=0, help="Timed runs per network. 0: no times.")] = 0,
    steps: Annotated[
        int, typer.Option(metavar="N", min=0, help="Training steps per network. 0: nothing is trained.")
    ] = 0,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Trainings per network, with --steps.")] = 2,
    weights: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE|NAME", help="Weights for figures. Default: the bundled ones. Repeatable."),
    ] = None,
    image: Annotated[
        Path | None, typer.Option(metavar="FILE|DIR", help="LR image for figures, or a folder of them.")
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Modules for figures, by class or name. Repeatable."),
    ] = None,
    bench: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE.json", help="For table4 and correlation: results of fmen bench --json. Repeatable."),
    ] = None,
    data: Annotated[str, typer.Option(metavar="DIR|sample", help="Training images, with --steps.")] = "sample",
    val_data: Annotated[str, typer.Option(metavar="DIR|sample", help="Images to measure PSNR on.")] = "sample",
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Reproduce a table or figure of the paper.

    Prints a Markdown table with the published figures beside ours. Parameters and multiply-adds take seconds. Times
    are measured with --runs, and PSNR after a short training with --steps.
    """
    from fmen.outputs import prepare_file
    from fmen.reproduction.experiments import EXPERIMENTS, chosen, write_page
    from fmen.reproduction.experiments import reproduce as run
    from fmen.reproduction.result import Options
    from fmen.threads import use_threads

    if page is not None and out is None:
        raise UserError("--page writes the results in --out: name that folder, too")
    if page is not None:
        prepare_file(page, ".md")
    use_threads(threads)
    options = Options(
        out=out,
        runs=runs,
        steps=steps,
        seeds=seeds,
        device=device,
        threads=threads,
        weights=tuple(weights or ()),
        image=image,
        layers=tuple(layers or ()),
        bench=tuple(bench or ()),
        data=data,
        val_data=val_data,
        progress=sys.stderr.isatty(),
    )
    if name is None and page is None:
        width = max(map(len, EXPERIMENTS))
        typer.echo("\n".join(f"{key:<{width}}  {experiment.title}" for key, experiment in EXPERIMENTS.items()))
    for experiment in () if name is None else chosen(name):
        result = run(experiment, options, command(experiment.name, options))
        typer.echo(f"{experiment.title}\n\n{result.markdown()}\n")
    if page is not None and out is not None:
        write_page(page, out)
        typer.echo(f"wrote {page}")


def command(name: str, options: Options) -> str:
    """Return the command line that makes a row, with the options that determine its figures."""
    timed = f" --runs {options.runs}" if options.runs else ""
    data = f" --data {options.data} --val-data {options.val_data}"
    trained = f" --steps {options.steps} --seeds {options.seeds}{data}" if options.steps else ""
    return f"fmen reproduce {name}{timed}{trained}"
