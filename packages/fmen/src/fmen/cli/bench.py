"""``fmen bench``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fmen.cli.options import Device, Json, Threads, matching, warn
from fmen.errors import UserError

if TYPE_CHECKING:
    from fmen.benchmark.run import Benchmark, Row


Models = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,...|all",
        help="Names or patterns, such as 'span*'. Default: all but the slowest, or those of --year.",
    ),
]
Weights = Annotated[
    list[Path] | None, typer.Option(metavar="FILE|NAME", help="Trained weights of a network. Repeatable.")
]
Module = Annotated[
    list[str] | None, typer.Option(metavar="FILE.py:CLASS[,WEIGHTS]", help="A network of your own. Repeatable.")
]
Model = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE.py:CLASS", help="Your own network, with one of the --weights or untrained. Repeatable."),
]
Sort = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Column to sort by, or model. Default: runtime, or the score of --year."),
]
Year = Annotated[
    int | None,
    typer.Option(metavar="2022|2024|2025|2026", help="That challenge's networks, FLOPs rule and score."),
]
Data = Annotated[
    str | None,
    typer.Option(metavar="DIR|sample", help="Dataset to measure PSNR on, for all networks with weights here."),
]
Markdown = Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the table as Markdown; - prints it.")]
Plot = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Plot runtime against memory and PSNR: PNG, PDF or SVG.")
]


def bench(
    models: Models = None,
    weights: Weights = None,
    module: Module = None,
    model: Model = None,
    sort: Sort = None,
    score: Annotated[bool, typer.Option("--score", help="Add the 2026 challenge's score, relative to SPAN.")] = False,
    year: Year = None,
    memory: Annotated[bool, typer.Option("--memory", help="Predict the peak memory from a trace.")] = False,
    data: Data = None,
    runs: Annotated[int, typer.Option(metavar="N", min=1, help="Timed runs per network.")] = 20,
    lr_size: Annotated[str, typer.Option(metavar="HxW", help="LR image for runtime and memory.")] = "256x256",
    device: Device = "auto",
    threads: Threads = None,
    json_file: Json = None,
    markdown: Markdown = None,
    plot: Plot = None,
) -> None:
    """Compare networks by complexity, runtime and memory.

    The table has parameters, FLOPs, activations, convolutions, runtime and memory, as the challenge reports them.
    """
    size = parse_size(lr_size)
    from fmen.benchmark.challenges import challenge_of
    from fmen.benchmark.models import SLOW, choose_models
    from fmen.benchmark.run import SCORE, run_bench
    from fmen.benchmark.table import sort_rows
    from fmen.outputs import prepare_file
    from fmen.threads import use_threads
    from fmen_core import find_weights

    use_threads(threads)
    challenge = None if year is None else challenge_of(year)
    if challenge and score:
        raise UserError("--score adds the score of 2026, and --year that of its own year; leave one of them out")
    if plot is not None:
        from fmen.charts.networks import check_plot, save_networks

        check_plot(plot)
        prepare_file(plot)
    sort = sort or ("score" if challenge and challenge.weights else "runtime")
    sort_rows([], sort)
    if json_file is not None:
        prepare_file(json_file, ".json")
    if markdown not in (None, Path("-")):
        prepare_file(markdown, ".md")
    names, files = named(models, challenge.networks if challenge else None), [*map(find_weights, weights or [])]
    result = run_bench(
        choose_models(names, files, module or [], own=model or [], trained=data is not None, note=warn),
        lr_size=size,
        device=device,
        runs=runs,
        rules=challenge or (SCORE if score else None),
        memory=memory,
        data=data,
        progress=sys.stderr.isatty(),
    )
    rows = sort_rows(result.rows, sort)
    write(result, rows, json_file, markdown, memory)
    if data is not None:
        tell_untrained([row.model.name for row in rows if row.accuracy is None])
    if models is None and challenge is None:
        typer.echo(f"\n{', '.join(SLOW)} are slower than all others and left out: --models all measures them, too")
    if plot is not None:
        save_networks([row.plotted() for row in rows], result.conditions, plot)


def tell_untrained(names: Sequence[str]) -> None:
    """Print which networks have no weights, and how to obtain published ones."""
    from fmen.benchmark.models import published_for

    if names:
        published = [entry.name for name in names for entry in published_for(name)]
        remedy = f"; fmen weights get {' '.join(published)}" if published else ""
        typer.echo(f"\nno PSNR without weights: {', '.join(names)}{remedy}")


def named(models: str | None, default: Sequence[str] | None) -> Sequence[str] | None:
    """Return the names that match the patterns in ``--models``; ``default`` without any.

    Raises:
        UserError: A pattern matches no name.
    """
    if models is None:
        return default
    from fmen_core import model_names

    patterns = ["*"] if models == "all" else [part.strip() for part in models.split(",") if part.strip()]
    return [name for pattern in patterns for name in matching([pattern], model_names())]


def write(result: Benchmark, rows: Sequence[Row], json_file: Path | None, markdown: Path | None, memory: bool) -> None:
    """Write the files, and print the table, also if a file cannot be written."""
    from fmen.benchmark.table import markdown_table, memory_table, text_table
    from fmen.json_file import write_json
    from fmen_data.atomic import atomic_write_bytes

    below = "\n\n".join((result.conditions, *result.remarks))
    as_markdown = markdown_table(rows, result.baseline)
    try:
        if json_file is not None:
            write_json(json_file, result.to_dicts())
        if markdown is not None and str(markdown) != "-":
            atomic_write_bytes(markdown, f"{as_markdown}\n\n{below}\n".encode())
    finally:
        typer.echo(as_markdown if str(markdown) == "-" else text_table(rows, result.baseline))
        typer.echo(f"\n{below}")
        if memory:
            typer.echo(f"\nPeak memory in MiB, predicted (needed, held) and measured\n{memory_table(rows)}")


def parse_size(text: str) -> tuple[int, int]:
    """Parse ``"256x320"`` into ``(256, 320)``: height and width.

    Raises:
        UserError: The text has another form, or a side is 0.
    """
    height, _, width = text.partition("x")
    if not height.isdecimal() or not width.isdecimal() or min(int(height), int(width)) < 1:
        raise UserError(f"--lr-size {text}: expected HxW, such as 256x256")
    return int(height), int(width)
