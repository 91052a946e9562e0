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


def speaker() -> Callable[[str], None]:
    """Prints a line, in the first process of a distributed run alone."""
    return typer.echo if os.environ.get("RANK", "0") == "0" else lambda line: None


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
    from fmen.training.recipe import load_recipe, parse_settings
    from fmen.training.run_folder import Run, new_run, newest_run, resumed_recipe

    given: dict[str, object] = {"variant": variant and variant.value, "scale": scale, "val_data": val_data}
    given["data"] = tuple(data) if data else None
    overrides = {key: value for key, value in given.items() if value is not None} | parse_settings(settings or [])
    if resume:
        run = Run(out) if out else newest_run()
        resolved = resumed_recipe(run, overrides)
    else:
        resolved = load_recipe(recipe, overrides)
        run = Run(out) if out else new_run(resolved)

    from fmen.training.loop import train as run_training

    say = speaker()
    say(f"run {run.folder}: {resolved.network} x{resolved.scale}, {resolved.steps} steps")
    outcome = run_training(resolved, run, resume=resume)
    if outcome.signal is not None:
        remedy = f"fmen train --resume --out {run.folder}"
        typer.echo(f"stopped after step {outcome.step} of {resolved.steps}; continue with: {remedy}", err=True)
        raise typer.Exit(128 + outcome.signal)
    best = "" if outcome.best is None else f", best {outcome.best:.2f} dB ({resolved.val_protocol})"
    say(f"done: {outcome.step} steps{best}: {outcome.weights}")
