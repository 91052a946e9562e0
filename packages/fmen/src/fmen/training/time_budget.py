"""What a run measures before its first step: the steps that fit into ``--minutes``, and the number of threads.

A few steps are timed on the network and the patches of the run, whose state is then restored. With ``--minutes``, the
recipe's steps become those that fit; warm-up, schedule, stages and the steps between two validations shrink or grow
with them.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from fmen.threads import available_cores, seconds_by_threads
from fmen.training.checkpoint import State
from fmen.training.cuda_graph import set_learning_rate
from fmen.training.distributed import Processes
from fmen.training.feed import to_floats
from fmen.training.pace import FIRST_STEPS
from fmen.training.recipe import Recipe, make_recipe
from fmen.training.schedule import cosine_length
from fmen.training.stages import stages_of
from fmen.training.step import make_graph, take_step
from fmen.training.teachers import Teachers
from fmen_core.copies import Copies
from fmen_data import PatchSampler

FITTED = (
    "minutes",
    "steps",
    "warmup",
    "halve_every",
    "schedule_steps",
    "stages",
    "val_every",
    "save_every",
    "log_every",
)
"""Keys that :func:`fit` sets."""

MEASURED = 20
"""Most steps that are timed."""

SHARE = 0.03
"""Share of the time for which steps are timed."""

VALIDATIONS = 10
"""Most validations of a run."""


@dataclass(frozen=True)
class Trial:
    """Steps that are timed before a run.

    Attributes:
        recipe: The resolved recipe.
        state: The state before the first step.
        sampler: The patches of the first stage.
        teachers: Those of the first stage.
        processes: All take their share of each batch.
        device: The device of this process.
    """

    recipe: Recipe
    state: State
    sampler: PatchSampler
    teachers: Teachers | None
    processes: Processes
    device: torch.device

    @contextmanager
    def steps(self, network: nn.Module) -> Iterator[Callable[[int], object]]:
        """Yield a function that takes the step with the given number. The state is afterwards as it was before.

        Args:
            network: ``state.model``, or what runs it compiled or in several processes.
        """
        first, state, processes = stages_of(self.recipe)[0].recipe, self.state, self.processes
        uploads = Copies(self.device)
        with unchanged(state):
            graph = make_graph(self.recipe, state, self.device)
            set_learning_rate(state.optimizer, first.learning_rate / 100)  # as far as a first step in a warm-up

            def take(step: int) -> None:
                patches = self.sampler.batch(step, rank=processes.rank, world_size=processes.size)
                lr, hr = to_floats(*patches, first, uploads)
                take_step(first, state, network, lr, hr, graph, self.teachers)

            yield take


def fit_to_time(
    recipe: Recipe,
    trial: AbstractContextManager[Callable[[int], object]],
    validation: Callable[[], object] | None,
    processes: Processes,
    begun: float,
) -> Recipe:
    """Return the recipe with the steps that fit into its minutes.

    Args:
        recipe: The resolved recipe.
        trial: ``Trial.steps(network)``.
        validation: Validates the network, or None without validation images.
        processes: The slowest one decides.
        begun: The value of ``time.perf_counter()`` from which the minutes count.
    """
    assert recipe.minutes
    with trial as take:
        step = seconds_per_step(take, limit=60 * recipe.minutes * SHARE, slowest=processes.largest)
    since = time.perf_counter()
    if validation:
        validation()
    each = time.perf_counter() - since if validation else 0.0
    spent = processes.largest(time.perf_counter() - begun)
    return fit(recipe, 60 * recipe.minutes - spent, processes.largest(step), processes.largest(each))


def fix_threads(
    recipe: Recipe,
    trial: AbstractContextManager[Callable[[int], object]],
    processes: Processes,
    device: torch.device,
    announce: Callable[[str], None],
    *,
    resume: bool,
) -> Recipe:
    """Set PyTorch's number of threads, and return the recipe with it.

    ``threads: auto`` is measured once, before a new run on the CPU: results differ in their last bits by the number of
    threads. On a GPU, where they do not, the recipe stays as it is.

    Args:
        recipe: The resolved recipe.
        trial: ``Trial.steps(network)``, of the network that is not compiled.
        processes: Several processes are not measured, since each has its share of the cores.
        device: The device of this process.
        announce: Called with one line about what was measured.
        resume: The run has steps that were computed with PyTorch's default, if the recipe has no number.
    """
    if recipe.threads != "auto":
        torch.set_num_threads(recipe.threads)
        cores = available_cores()
        if device.type == "cpu" and recipe.threads > cores:
            announce(f"note: {recipe.threads} threads on {cores} cores; --threads {cores} changes only the last bits")
        return recipe
    if device.type != "cpu":
        return recipe
    count = torch.get_num_threads()
    if count > 1 and processes.size == 1 and not resume:
        with trial as take:
            seconds = seconds_by_threads(partial(take, 0), (count, 1))
        count = min(seconds, key=lambda each: seconds[each])
        times = ", ".join(f"{seconds[each]:.3g} s with {each}" for each in sorted(seconds))
        announce(f"threads: {count}, the faster of two (a step takes {times})")
        torch.set_num_threads(count)
    return recipe.model_copy(update={"threads": count})


@contextmanager
def unchanged(state: State) -> Iterator[None]:
    """Restore network, moving average, optimizer and scaler after the block."""
    networks = [state.model, *([state.ema.model] if state.ema else [])]
    parts: list[Any] = [*networks, state.optimizer, state.scaler]
    before = [copy.deepcopy(part.state_dict()) for part in parts]
    yield
    for part, values in zip(parts, before, strict=True):
        part.load_state_dict(values)


def seconds_per_step(
    take: Callable[[int], object], *, limit: float, slowest: Callable[[float], float] = lambda seconds: seconds
) -> float:
    """Return the time of a step.

    Args:
        take: Takes the step with the given number.
        limit: The largest number of seconds that are measured.
        slowest: Returns the largest number of all processes, which must take the same steps.
    """
    for step in range(FIRST_STEPS):
        take(step)
    begun, steps = _now(), 0
    while steps < MEASURED and (steps < 2 or slowest(_now() - begun) < limit):
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
