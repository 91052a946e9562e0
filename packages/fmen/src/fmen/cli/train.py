"""``fmen train``."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Variant(str, Enum):
    """FMEN-S or FMEN."""

    s = "s"
    full = "full"


def printer(*, err: bool = False) -> Callable[[str], None]:
    """Return a function that prints a line in the first process of a distributed run, and nothing in the others."""
    return lambda line: typer.echo(line, err=err) if os.environ.get("RANK", "0") == "0" else None


def train(
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE.py:CLASS", help="A network of 'fmen models', or your own. Default: fmen-s."),
    ] = None,
    variant: Annotated[Variant | None, typer.Option(help="s: --model fmen-s; full: --model fmen.")] = None,
    scale: Annotated[int | None, typer.Option(help="2, 3 or 4. Default: the recipe's value.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="paper, fast, cpu, quick, or a YAML file. Default: fast. Not with --resume.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="Training set: a folder, HR_DIR,LR_DIR or sample. Can be repeated.")
    ] = None,
    val_data: Annotated[str | None, typer.Option(help="Validation set: a folder, HR_DIR,LR_DIR or sample.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. Default: a new one under runs/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out, or the newest run.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe. Can be repeated."),
    ] = None,
) -> None:
    """Train a network."""
    from fmen.sources.networks import note_other_version
    from fmen.training.recipe import VARIANTS, RecipeError, load_recipe, parse_settings
    from fmen.training.run_folder import Run, new_run, newest_run, resumed_recipe

    say, note = printer(), printer(err=True)
    if variant and model:
        raise RecipeError(f"--variant {variant.value} is short for --model {VARIANTS[variant.value]}; give only one")
    model = VARIANTS[variant.value] if variant else model
    given: dict[str, object] = {"model": model, "scale": scale, "val_data": val_data}
    given["data"] = tuple(data) if data else None
    overrides = {key: value for key, value in given.items() if value is not None} | parse_settings(
        settings or [], note=note
    )
    if resume:
        if recipe:
            raise RecipeError(f"--recipe {recipe}: a resumed run follows the recipe in its folder; leave --recipe out")
        run = Run(out) if out else newest_run()
        resolved = resumed_recipe(run, overrides)
        note_other_version(run.last, resolved.model, note)
    else:
        resolved = load_recipe(recipe or "fast", overrides, note=note)
        run = Run(out) if out else new_run(resolved)

    from fmen.training.loop import train as run_training

    say(f"run {run.folder}: {resolved.network} x{resolved.scale}, {resolved.steps} steps")
    outcome = run_training(resolved, run, resume=resume)
    if outcome.signal is not None:
        remedy = f"fmen train --resume --out {run.folder}"
        typer.echo(f"stopped after step {outcome.step} of {resolved.steps}; continue with: {remedy}", err=True)
        raise typer.Exit(128 + outcome.signal)
    best = "" if outcome.best is None else f", best {outcome.best:.2f} dB ({resolved.val_protocol})"
    say(f"done: {outcome.step} steps{best}: {outcome.weights}")
