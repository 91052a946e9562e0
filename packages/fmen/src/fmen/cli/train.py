"""``fmen train``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from fmen.training.recipe import Recipe
    from fmen.training.run_folder import Run


class Resume(str, Enum):
    """Continue a run that exists, or start one where there is none."""

    always = "always"
    auto = "auto"


class TrainCommand(TyperCommand):
    """A command whose option ``--resume`` may stand alone, which typer's options cannot."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line."""
        following = [*args[1:], None]
        alone = [arg == "--resume" and word != "auto" for arg, word in zip(args, following, strict=False)]
        args = ["--resume=always" if bare else arg for arg, bare in zip(args, alone, strict=True)]
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the recipes before the examples."""
        from fmen.training.keys import recipe_summaries

        with formatter.section("Recipes"):
            formatter.write_dl(recipe_summaries())
        super().format_epilog(ctx, formatter)


def show_keys(wanted: bool) -> None:
    """Print the keys of a recipe and exit."""
    if wanted:
        from fmen.training.keys import key_table

        typer.echo(key_table(min(100, shutil.get_terminal_size().columns)))
        raise typer.Exit


class Variant(str, Enum):
    """FMEN-S with 50 or 48 channels, or FMEN."""

    s = "s"
    s48 = "s48"
    full = "full"


def printer(*, err: bool = False) -> Callable[[str], None]:
    """Return a function that prints a line in the first process of a distributed run, and nothing in the others."""
    return lambda line: typer.echo(line, err=err) if os.environ.get("RANK", "0") == "0" else None


ModelName = Annotated[
    str | None,
    typer.Option(metavar="NAME|FILE.py:CLASS", help="A network of 'fmen models', or your own. Default: fmen-s."),
]
Size = Annotated[Variant | None, typer.Option(metavar="s|s48|full", help="--model fmen-s, fmen-s48 or fmen.")]
Scale = Annotated[int | None, typer.Option(metavar="N", help="2, 3 or 4. Default: the recipe's value.")]
RecipeName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="A recipe listed below, or a YAML file. Default: fast on a GPU, otherwise cpu. Not with --resume.",
    ),
]
Data = Annotated[
    list[str] | None,
    typer.Option(metavar="DIR|sample", help="Training set, or HR_DIR,LR_DIR. Can be repeated."),
]
ValData = Annotated[
    list[str] | None,
    typer.Option(metavar="DIR|sample", help="Validation set, or HR_DIR,LR_DIR. Can be repeated; the first counts."),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out training images that cannot be used, and name them.")
]
Init = Annotated[
    str | None, typer.Option(metavar="FILE|NAME", help="Start from these weights, in either form, of any scale.")
]
Minutes = Annotated[
    float | None,
    typer.Option(metavar="N", help="Train for about N minutes; the recipe's steps are fitted to this time."),
]
Threads = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="CPU threads. Default: 1 or one per core, whichever is faster."),
]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Run folder. Default: a new one under runs/.")]
Continue = Annotated[
    Resume | None,
    typer.Option(
        metavar="[auto]",
        help="Continue the run in --out, or the newest run. auto: start it if there is no checkpoint.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe. Can be repeated."),
]
Keys = Annotated[
    bool, typer.Option("--keys", help="List the keys of a recipe and exit.", callback=show_keys, is_eager=True)
]


def train(
    model: ModelName = None,
    variant: Size = None,
    scale: Scale = None,
    recipe: RecipeName = None,
    data: Data = None,
    val_data: ValData = None,
    skip_bad: SkipBad = False,
    init: Init = None,
    minutes: Minutes = None,
    threads: Threads = None,
    out: Out = None,
    resume: Continue = None,
    settings: Settings = None,
    keys: Keys = False,
) -> None:
    """Train a network."""
    from fmen.threads import use_threads
    from fmen.training.distributed import join
    from fmen.training.loop import train as run_training
    from fmen.training.recipe import VARIANTS, RecipeError, parse_settings, with_settings

    use_threads(threads)
    say, note = printer(), printer(err=True)
    with join() as processes:
        named = VARIANTS[variant.value] if variant else model
        if variant and model not in (None, named):
            raise RecipeError(f"--variant {variant.value} is short for --model {named}; give only one")
        given: dict[str, object] = {
            "model": named,
            "scale": scale,
            "val_data": tuple(val_data) if val_data else None,
            "minutes": minutes,
            "weights": init,
            "threads": threads,
        }
        given |= {"data": tuple(data) if data else None, "skip_bad": skip_bad or None}
        overrides = {key: value for key, value in given.items() if value is not None}
        overrides = with_settings(overrides, parse_settings(settings or [], note=note))
        resolved, run, resumed = processes.decide(lambda: plan(recipe, out, resume, overrides, note))
        outcome = run_training(resolved, run, resume=resumed, processes=processes, announce=say)
    if outcome.signal is not None:
        remedy = f"fmen train --resume --out {run.folder}"
        note(f"stopped after step {outcome.step} of {resolved.steps}; continue with: {remedy}")
        raise typer.Exit(128 + outcome.signal)
    best = "" if outcome.best is None else f", best {outcome.best:.2f} dB ({resolved.val_protocol[0]})"
    say(f"done: {outcome.step} steps{best}: {outcome.weights}")


def plan(
    recipe: str | None,
    out: Path | None,
    resume: Resume | None,
    overrides: Mapping[str, object],
    note: Callable[[str], None],
) -> tuple[Recipe, Run, bool]:
    """Return the recipe, the run folder, and whether to continue from a checkpoint in it.

    Raises:
        RecipeError: The recipe or a key is at fault.
        RunError: There is nothing to resume, or a key differs from the run's.
    """
    from fmen.sources.networks import note_other_version
    from fmen.sources.runs import RUNS
    from fmen.training.recipe import RecipeError, current_keys, load_recipe
    from fmen.training.run_folder import Run, new_run, newest_run, resumed_recipe, run_name
    from fmen.training.time_budget import FITTED

    if resume is Resume.always:
        if recipe:
            raise RecipeError(f"--recipe {recipe}: a resumed run follows the recipe in its folder; leave --recipe out")
        run = Run(out) if out else newest_run()
        resolved = resumed_recipe(run, overrides)
        note_other_version(run.last, resolved.model, note)
        return resolved, run, True
    resolved = load_recipe(recipe or default_recipe(overrides, note), overrides, note=note)
    if resume is None:
        return resolved, Run(out) if out else new_run(resolved), False
    run = Run(out or RUNS / run_name(resolved))
    if run.checkpoints():
        fitted = FITTED if resolved.minutes else ()  # The run's recipe has the steps that fit.
        overrides = current_keys(overrides, source="--set")
        kept = {key: value for key, value in overrides.items() if key not in fitted}
        resolved = resumed_recipe(run, {**kept, "name": resolved.name})
        if fitted:
            ignored = ", ".join(key for key in overrides if key in fitted and key != "minutes")
            note(f"note: --minutes{ignored and f', {ignored}'}: ignored; the run continues with {resolved.steps} steps")
        note_other_version(run.last, resolved.model, note)
        return resolved, run, True
    run.clear()
    return resolved, run, False


def default_recipe(overrides: Mapping[str, object], note: Callable[[str], None]) -> str:
    """Return the recipe that suits the device, and say so."""
    import torch

    gpu = torch.cuda.is_available() and overrides.get("device") != "cpu"
    name, reason = ("fast", "there is a GPU") if gpu else ("cpu", "the run is on the CPU")
    note(f"recipe {name}, because {reason}; --recipe chooses another")
    return name
