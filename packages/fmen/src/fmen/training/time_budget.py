"""``fmen train --minutes``: a recipe that ends after a given time.

A few steps are timed before the run, on the network and the patches of the run, whose state is then restored. The
recipe's steps become those that fit; warm-up, schedule, stages and the steps between two validations shrink or grow
with them.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fmen.training.checkpoint import State
from fmen.training.cuda_graph import CudaGraph, set_learning_rate
from fmen.training.distributed import Processes
from fmen.training.feed import to_device
from fmen.training.pace import FIRST_STEPS
from fmen.training.recipe import Recipe, make_recipe
from fmen.training.schedule import cosine_length
from fmen.training.stages import stages_of
from fmen.training.step import make_graph, take_step
from fmen.training.teachers import Teachers
from fmen_data import PatchSampler

MEASURED = 20
"""Most steps that are timed."""

SHARE = 0.03
"""Share of the time for which steps are timed."""

VALIDATIONS = 10
"""Most validations of a run."""


def fit_to_time(
    recipe: Recipe,
    state: State,
    network: nn.Module,
    sampler: PatchSampler,
    teachers: Teachers | None,
    validation: Callable[[], object] | None,
    processes: Processes,
    device: torch.device,
    begun: float,
) -> Recipe:
    """Return the recipe with the steps that fit into its minutes. The state is afterwards as it was before.

    Args:
        recipe: The resolved recipe.
        state: The state before the first step.
        network: ``state.model``, or what runs it compiled or in several processes.
        sampler: The patches of the first stage.
        teachers: Those of the first stage.
        validation: Validates the network, or None without validation images.
        processes: The slowest one decides.
        device: The device of this process.
        begun: The value of ``time.perf_counter()`` from which the minutes count.
    """
    assert recipe.minutes
    first = stages_of(recipe)[0].recipe
    graph: CudaGraph | None = None

    def take(step: int) -> None:
        patches = sampler.batch(step, rank=processes.rank, world_size=processes.size)
        take_step(first, state, network, *to_device(*patches, first, device), graph, teachers)

    with unchanged(state):
        graph = make_graph(recipe, state, device)
        set_learning_rate(state.optimizer, first.learning_rate / 100)  # as far as a first step in a warm-up
        step = seconds_per_step(take, limit=60 * recipe.minutes * SHARE)
    since = time.perf_counter()
    if validation:
        validation()
    each = time.perf_counter() - since if validation else 0.0
    spent = processes.largest(time.perf_counter() - begun)
    return fit(recipe, 60 * recipe.minutes - spent, processes.largest(step), processes.largest(each))


@contextmanager
def unchanged(state: State) -> Iterator[None]:
    """Restore network, moving average, optimizer and scaler after the block."""
    networks = [state.model, *([state.ema.model] if state.ema else [])]
    parts: list[Any] = [*networks, state.optimizer, state.scaler]
    before = [copy.deepcopy(part.state_dict()) for part in parts]
    yield
    for part, values in zip(parts, before, strict=True):
        part.load_state_dict(values)


def seconds_per_step(take: Callable[[int], object], *, limit: float) -> float:
    """Return the time of a step.

    Args:
        take: Takes the step with the given number.
        limit: The largest number of seconds that are measured.
    """
    for step in range(FIRST_STEPS):
        take(step)
    begun, steps = _now(), 0
    while steps < MEASURED and (steps < 2 or _now() - begun < limit):
        take(steps)
        steps += 1
    return (_now() - begun) / steps


def fit(recipe: Recipe, seconds: float, step: float, validation: float) -> Recipe:
    """Return ``recipe`` with steps for a time, and without ``minutes``.

    Args:
        recipe: The recipe as it was given, resolved.
        seconds: The time for steps and validations.
        step: Seconds of a step of the first stage.
        validation: Seconds of a validation; 0 without validation images.
    """
    stages = stages_of(recipe)
    validations = min(VALIDATIONS, max(1, int(0.2 * seconds / validation))) if validation else 1
    nominal = sum(stage.recipe.steps * stage.pixels / stages[0].pixels for stage in stages) * step
    factor = max(0.0, seconds - validations * validation) / nominal
    values: dict[str, Any] = scaled(recipe.model_dump(), factor)
    values["minutes"] = None
    if recipe.stages:
        del values["steps"]
        values["stages"] = [scaled(stage, factor) for stage in recipe.stages]
        values["warmup"] = min(values["warmup"], *(stage["steps"] - 1 for stage in values["stages"]))
    fitted = make_recipe(values, source="--minutes")
    every = {"val_every": -(-fitted.steps // validations), "save_every": -(-fitted.steps // VALIDATIONS)}
    every["log_every"] = max(1, fitted.steps // 100)
    update = {key: min(value, getattr(recipe, key)) for key, value in every.items()}
    return fitted.model_copy(update={**update, "schedule_steps": cosine_length(fitted)})


def scaled(values: dict[str, Any], factor: float) -> dict[str, Any]:
    """Return the keys of a recipe or of a stage, with those that count steps multiplied by a factor."""
    steps = max(1, round(values["steps"] * factor))
    changed = {key: max(1, round(values[key] * factor)) for key in ("halve_every",) if key in values}
    if "warmup" in values:
        changed["warmup"] = min(round(values["warmup"] * factor), steps - 1)
    others = {key: value for key, value in values.items() if key != "schedule_steps"}
    return {**others, **changed, "steps": steps}


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
