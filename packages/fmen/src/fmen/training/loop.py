"""The training loop: data, step, log, validate, save.

One process::

    fmen train --recipe fast

All GPUs of one machine, or, with torchrun's address options, of several machines::

    torchrun --standalone --nproc-per-node=gpu -m fmen train --recipe fast

The recipe's batch is the batch of a step over all processes: process r of w takes the samples r, r + w, ...
DistributedDataParallel averages the gradients. BatchNorm normalizes each process's samples separately; its running
statistics are those of the first process. A run of w processes therefore reaches the quality of a run of one, but not
the same bits. Validation images are shared out over the processes, too.

On the CPU, in one process and in fp32, a stopped and resumed run ends with the same bits as an uninterrupted one: a
sample depends only on the seed, the step and its slot in the batch, and the checkpoint holds everything else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from fmen.errors import UserError
from fmen.sources.networks import STATISTICS
from fmen.sources.runs import RunError
from fmen.threads import threads_restored
from fmen.training.checkpoint import State, newest_checkpoint, save_weights
from fmen.training.cuda_graph import set_learning_rate
from fmen.training.distributed import Processes, distribute, join
from fmen.training.feed import batches, open_patches, open_validation
from fmen.training.logger import Clock, Logger
from fmen.training.optimizers import make_optimizer
from fmen.training.recipe import Recipe
from fmen.training.run_folder import Run
from fmen.training.schedule import learning_rate
from fmen.training.setup import (
    check_recipe,
    device_title,
    machine,
    make_state,
    pick_device,
    resolve_recipe,
)
from fmen.training.signals import StopRequest
from fmen.training.stages import Stage, stage_before, stages_of
from fmen.training.step import make_graph, take_step
from fmen.training.teachers import Teachers, open_teachers, teacher_checksums
from fmen.training.time_budget import Trial, fit_to_time, fix_threads
from fmen.training.validation import check_images, measure, set_best_by, validate_step
from fmen_data import PairDataset, PatchSampler


class TrainingError(UserError):
    """Training diverged. The message is one line and names the remedy."""


@dataclass(frozen=True)
class Outcome:
    """The end of a run.

    Attributes:
        step: Steps done.
        best: Best validation PSNR in dB, or None without validation.
        weights: File of the best weights, or of the last weights without validation.
        signal: Signal that stopped the run before its last step, or None.
    """

    step: int
    best: float | None
    weights: Path
    signal: int | None


def train(
    recipe: Recipe,
    run: Run,
    *,
    resume: bool = False,
    processes: Processes | None = None,
    announce: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Train a network.

    Args:
        recipe: The recipe; on resuming, ``resumed_recipe(run, ...)``.
        run: A new folder, or one with a checkpoint.
        resume: Continue from the run's checkpoint.
        processes: From ``join``, which is called if this is None.
        announce: Called with one line when all inputs are found to be good, before the first step.

    Raises:
        UserError: Recipe, data or checkpoint are at fault, or training diverged.
        OSError: A file cannot be read or written.
    """
    with ExitStack() as stack:
        processes = processes or stack.enter_context(join())
        stack.enter_context(threads_restored())
        ready = prepare(recipe, run, processes, announce, resume=resume)
        recipe, stages, state, device = ready.recipe, ready.stages, ready.state, ready.device
        logger = stack.enter_context(Logger(run, recipe, step=state.step, silent=not processes.first))
        graph = make_graph(recipe, state, device)
        clock, stop = Clock(state), stack.enter_context(StopRequest(silent=not processes.first))
        validation = partial(validate_step, recipe, run, state, ready.images, device, processes, stop, logger.show)
        if state.unvalidated:
            stage = stage_before(stages, state.step)
            logger.record({"step": state.step, "seconds": round(state.seconds, 3), **validation()}, stage)
        if state.random is not None:
            torch.set_rng_state(state.random)
        start = recipe.steps if state.unvalidated else state.step  # A signal has stopped the validation again.
        for stage, lr, hr in batches(stages, ready.samplers, processes, device, start=start):
            # step
            logger.begin(stage)
            if stage.begins_at(state.step):
                state.optimizer = make_optimizer(stage.recipe, state.model)
                graph = make_graph(recipe, state, device)
            rate = learning_rate(stage.recipe, state.step - stage.start)
            set_learning_rate(state.optimizer, rate)
            vote = processes.vote(stop.number)
            teachers = ready.teachers[stage.number - 1]
            state.count(take_step(stage.recipe, state, ready.network, lr, hr, graph, teachers))
            logger.tick()
            stopped = bool(vote())
            logs, validates, saves = due(stage, state.step)
            if logs or validates or saves or stopped:
                require_finite(state, processes)

            # log
            record: dict[str, float] = {}
            if logs:
                record = {"loss": mean_loss(state, processes), "lr": rate, "steps_per_second": clock.rate()}

            # validate
            if validates:
                with clock.paused(), logger.pace.paused():
                    record |= validation()
            clock.read()
            if record:
                logger.record({"step": state.step, "seconds": round(state.seconds, 3), **record}, stage)

            # save
            stopped |= state.unvalidated
            if saves or stopped:
                save_checkpoint(recipe, run, state, processes)
            if stopped:
                break
        ended = state.step == recipe.steps and not state.unvalidated
        signal = None if ended else int(processes.largest(stop.number()))
        return Outcome(state.step, state.best if math.isfinite(state.best) else None, run.weights, signal)


@dataclass(frozen=True)
class Ready:
    """What a run needs for its first step: the resolved recipe, and one sampler and the teachers for each stage."""

    recipe: Recipe
    device: torch.device
    stages: list[Stage]
    teachers: list[Teachers | None]
    state: State
    network: nn.Module
    images: list[PairDataset]
    samplers: list[PatchSampler]


def prepare(recipe: Recipe, run: Run, processes: Processes, announce: Callable[[str], None], *, resume: bool) -> Ready:
    """Check and open all inputs of a run, and begin its folder; arguments as in :func:`train`."""
    begun = time.perf_counter()
    device = connect(recipe, processes)
    recipe = resolve_recipe(recipe, device, processes)
    stages = stages_of(recipe)
    teachers = processes.first_on_node(lambda: [open_teachers(stage.recipe, device) for stage in stages])
    checksums = teacher_checksums(stage.recipe for stage in stages)
    if resume:
        run.require_teachers(checksums)
    state = (load_state if resume else new_state)(stages[0], run, device, processes)
    if recipe.steps < state.step:
        raise RunError(f"{run.folder}: {state.step} steps are done; give --set steps=N with a larger number")
    network = wrap(state.model, recipe, processes, device)
    images, samplers = open_validation(recipe), open_patches(stages, processes)
    processes.first_on_node(lambda: check_images(images))
    set_best_by(state, recipe, images)
    trial = Trial(recipe, state, samplers[0], teachers[0], processes, device)
    recipe = fix_threads(recipe, trial.steps(state.model), processes, device, announce, resume=resume)
    if recipe.minutes:
        announce(f"measuring how many steps fit into {recipe.minutes:g} min")
        each = partial(measure, recipe, state.network, device=device, processes=processes, stop=StopRequest())
        once = (lambda: [each(dataset) for dataset in images]) if images else None
        recipe = fit_to_time(recipe, trial.steps(network), once, processes, begun)
    stages = stages_of(recipe)
    if processes.first:
        facts = machine(recipe, device, processes) | ({"teachers": checksums} if checksums else {})
        run.begin(recipe, facts, state.step if resume else None)
    announce(
        f"run {run.folder}: {recipe.network} x{recipe.scale}, {recipe.steps} steps on {device_title(recipe, device)}"
    )
    return Ready(recipe, device, stages, teachers, state, network, images, samplers)


def connect(recipe: Recipe, processes: Processes) -> torch.device:
    """Check the recipe against this machine, and return the device on which this process computes."""
    check_recipe(recipe, processes)
    device = pick_device(recipe, processes.local_rank)
    processes.connect(device)
    return device


def wrap(model: nn.Module, recipe: Recipe, processes: Processes, device: torch.device) -> nn.Module:
    """Return what runs ``model`` in several processes, and compiled, as the recipe says."""
    static = bool(recipe.compile) and all(part.accumulate == 1 for part in recipe.stage_recipes())
    network = distribute(model, processes, device, static_graph=static)
    return cast(nn.Module, torch.compile(network, dynamic=False)) if recipe.compile else network


def new_state(first: Stage, run: Run, device: torch.device, processes: Processes) -> State:
    """Return the state before the first step of the first stage.

    Raises:
        RunError: The folder of ``run`` already has a run.
        RecipeError: The weights to start from do not fit.
    """
    if processes.first:
        run.require_new()
    return make_state(first.recipe, device)


def load_state(first: Stage, run: Run, device: torch.device, processes: Processes) -> State:
    """Return the state of the run's checkpoint, which the first process reads for all.

    The file that ``recipe.weights`` names is not read again.

    Raises:
        RunError: The checkpoint is missing, damaged, or of another network.
    """
    state = make_state(first.recipe.model_copy(update={"weights": None}), device)
    path, content = processes.share(lambda: newest_checkpoint(run))
    state.load(content, path)
    return state


def due(stage: Stage, step: int) -> tuple[bool, bool, bool]:
    """Return whether to log, to validate and to save after ``step`` steps; all are due after a stage's last one."""
    recipe = stage.recipe
    logs, validates, saves = (
        step == stage.stop or (every > 0 and step % every == 0)
        for every in (recipe.log_every, recipe.val_every, recipe.save_every)
    )
    return logs, validates, saves


def require_finite(state: State, processes: Processes) -> None:
    """Check the weights and the loss, so that no non-finite weights replace finite ones on disk.

    Raises:
        TrainingError: In every process, if a value of any process is NaN or infinite.
    """
    finite = torch.stack([all_finite(state.model), all_finite(state.network), state.losses.isfinite()]).all().item()
    if processes.largest(not finite):
        loss = (state.losses / state.counted).item()
        raise TrainingError(
            f"training diverged by step {state.step} (mean loss {loss:.4g}); "
            "start again with a lower learning_rate, a longer warmup, or grad_clip=1000"
        )


def all_finite(model: nn.Module) -> Tensor:
    """Return whether all parameters and running statistics are finite, and no other buffer, such as a mask, is NaN."""
    values = [parameter.isfinite().all() for parameter in model.parameters()]
    for name, buffer in model.named_buffers():
        statistic = name.endswith(STATISTICS)
        values.append(buffer.isfinite().all() if statistic else ~buffer.isnan().any())
    return torch.stack(values).all()


def mean_loss(state: State, processes: Processes) -> float:
    """Return the mean loss since the last call, over all processes."""
    processes.average(state.losses)
    loss = (state.losses / state.counted).item()
    state.losses.zero_()
    state.counted = 0
    return loss


def save_checkpoint(recipe: Recipe, run: Run, state: State, processes: Processes) -> None:
    """Write the checkpoint and the last weights."""
    processes.average(state.losses)  # A resumed run continues with the mean of all processes.
    if processes.first:
        state.save(run.resume, recipe.keep_checkpoints)
        save_weights(recipe, state, run.last)
