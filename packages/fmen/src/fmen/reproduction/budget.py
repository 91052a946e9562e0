"""Training of a network for a given time, for figures that need trained networks."""

from __future__ import annotations

from collections.abc import Mapping

from fmen.errors import UserError
from fmen.reproduction.result import Options
from fmen.sources.runs import RUNS
from fmen.training.loop import train
from fmen.training.recipe import load_recipe
from fmen.training.run_folder import Run, resumed_recipe

RECIPE = "cpu"
"""The recipe of all trained rows."""


def trained_run(name: str, model: str, args: Mapping[str, object], options: Options, seed: int) -> Run:
    """Train a network for ``options.minutes``; continue or return a run of the same name, minutes and seed.

    All networks have the same recipe, patches and time; a faster network makes more steps.

    Args:
        name: Folder of the run below ``runs/reproduction``; runs with other data need another name or folder.
        model: A name of ``fmen models``, or ``FILE.py:CLASS``.
        args: Its arguments.
        options: The budget, the data and the device.
        seed: Decides the initial weights and the patches.

    Raises:
        UserError: Recipe or data are at fault, or training diverged.
    """
    run = Run(RUNS / "reproduction" / f"{name}_{options.minutes:g}min_seed{seed}")
    if run.recipe_file.is_file():
        earlier = run.recipe()
        if (earlier.datasets, earlier.val_data) != ((options.data,), (options.val_data,)):
            raise UserError(f"{run.folder}: trained with other --data or --val-data; remove it to train again")
        done = run.records()
        if done and done[-1]["step"] >= earlier.steps:
            return run
    recipe = load_recipe(
        RECIPE,
        {
            "model": model,
            "model_args": dict(args),
            "data": (options.data,),
            "val_data": options.val_data,
            "minutes": options.minutes,
            "seed": seed,
        },
    )
    resumes = bool(run.checkpoints())
    train(resumed_recipe(run, {}) if resumes else recipe, run, resume=resumes)
    return run


def final_psnr(run: Run) -> float:
    """Return the last validation PSNR of a run in dB."""
    return float([record["psnr"] for record in run.records() if "psnr" in record][-1])
