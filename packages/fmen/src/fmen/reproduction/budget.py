"""Training of a network for a given number of steps, for figures that need trained networks."""

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

BATCH = 8
"""Half of the recipe's, for twice as many steps in the same time."""

WARMUP = 200
"""Most steps of warm-up; a short training has a tenth of its steps."""

VALIDATIONS = 10
"""Validations of a training."""


def trained_run(name: str, model: str, args: Mapping[str, object], options: Options, seed: int) -> Run:
    """Train a network for ``options.steps``; continue or return a run of the same name, steps and seed.

    All networks have the same recipe and the same patches.

    Args:
        name: Folder of the run below ``runs/reproduction``; runs with other data need another name or folder.
        model: A name of ``fmen models``, or ``FILE.py:CLASS``.
        args: Its arguments.
        options: The budget, the data and the device.
        seed: Decides the initial weights and the patches.

    Raises:
        UserError: Recipe or data are at fault, or training diverged.
    """
    run = Run(RUNS / "reproduction" / f"{name}_{options.steps}steps_seed{seed}")
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
            "batch": BATCH,
            "steps": options.steps,
            "warmup": min(WARMUP, options.steps // 10),
            **dict.fromkeys(("val_every", "save_every", "log_every"), -(-options.steps // VALIDATIONS)),
            "seed": seed,
            "device": options.device,
            "threads": options.threads or "auto",
        },
    )
    resumes = bool(run.checkpoints())
    train(resumed_recipe(run, {}) if resumes else recipe, run, resume=resumes)
    return run
