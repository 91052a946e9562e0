"""The training loop: data, step, log, validate, save.

One process::

    fmen train --recipe fast

All GPUs of one machine, or, with torchrun's address options, of several machines::

    torchrun --standalone --nproc-per-node=gpu -m fmen train --recipe fast

The recipe's batch is the batch of a step over all processes: process r of w takes the samples r, r + w, ... Gradients
are averaged over the processes, so the networks of all processes stay equal. BatchNorm normalizes each process's
samples separately, as under PyTorch's DistributedDataParallel, and its running statistics are averaged. A run of w
processes therefore reaches the quality of a run of one, but not the same bits.

On the CPU, in one process and in fp32, a stopped and resumed run ends with the same bits as an uninterrupted one: a
sample depends only on the seed, the step and its slot in the batch, and the checkpoint holds everything else.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from fmen.errors import UserError
from fmen.sources.networks import user_module
from fmen.training.checkpoint import State, newest_checkpoint
from fmen.training.cuda_graph import CudaGraph, make_capturable, set_learning_rate
from fmen.training.distributed import Processes, average_gradients, join
from fmen.training.feed import batches, open_patches, open_validation
from fmen.training.logger import Clock, Logger
from fmen.training.losses import LOSSES
from fmen.training.recipe import Recipe
from fmen.training.run_folder import Run
from fmen.training.schedule import learning_rate
from fmen.training.setup import (
    backend_flags,
    check_recipe,
    device_type,
    machine,
    make_state,
    pick_device,
    resolve_recipe,
)
from fmen.training.signals import StopRequest
from fmen.training.teachers import Teachers, open_teachers
from fmen_core import Upscaler, save
from fmen_core.architecture import sr_model
from fmen_data import PairDataset
from fmen_eval import validate

AUTOCAST = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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


def train(recipe: Recipe, run: Run, *, resume: bool = False) -> Outcome:
    """Train a network.

    Args:
        recipe: The recipe; on resuming, ``resumed_recipe(run, ...)``.
        run: A new folder, or one with a checkpoint.
        resume: Continue from the run's checkpoint.

    Raises:
        UserError: Recipe, data or checkpoint are at fault, or training diverged.
        OSError: A file cannot be read or written.
    """
    with ExitStack() as stack:
        processes = stack.enter_context(join(device_type(recipe)))
        check_recipe(recipe, processes)
        device = pick_device(recipe, processes.local_rank)
        recipe = resolve_recipe(recipe, device, processes)
        teachers = open_teachers(recipe, device)
        state = load_state(recipe, run, device) if resume else new_state(recipe, run, device, processes)
        network = cast(nn.Module, torch.compile(state.model)) if recipe.compile else state.model
        graph = CudaGraph() if recipe.cuda_graph else None
        if graph:
            make_capturable(state.optimizer, device)

        # data
        validation = open_validation(recipe) if processes.first else None
        sampler = open_patches(recipe, processes)
        logger = stack.enter_context(Logger(run, recipe, step=state.step, silent=not processes.first))
        if processes.first:
            run.begin(recipe, machine(recipe, device, processes), state.step if resume else None)
        clock, stop = Clock(state), stack.enter_context(StopRequest())
        for lr, hr in batches(recipe, sampler, processes, device, start=state.step):
            # step
            state.count(take_step(recipe, state, network, processes, lr, hr, graph, teachers))
            logger.tick()
            stopped = stop_agreed(stop, state.step, processes, device)
            logs, validates, saves = due(recipe, state.step)
            if logs or validates or saves or stopped:
                require_finite(state, processes, device)

            # log
            record: dict[str, float] = {}
            if logs:
                rate = learning_rate(recipe, state.step - 1)
                record = {"loss": mean_loss(state, processes), "lr": rate, "steps_per_second": clock.rate()}

            # validate
            if validation and validates:
                with clock.paused():
                    record["psnr"] = measure(recipe, state.network, validation, device)
                update_best(recipe, run, state, record["psnr"])
            clock.read()
            if record:
                logger.record({"step": state.step, "seconds": round(state.seconds, 3), **record})

            # save
            if processes.first and (saves or stopped):
                save_weights(recipe, state, run.last)
                state.save(run.resume, recipe.keep_checkpoints)
            if stopped:
                break
        processes.wait()
        signal = stop.signal if state.step < recipe.steps else None
        return Outcome(state.step, state.best if math.isfinite(state.best) else None, run.weights, signal)


def new_state(recipe: Recipe, run: Run, device: torch.device, processes: Processes) -> State:
    """Return the state before the first step.

    Raises:
        RunError: The folder of ``run`` already has a run.
        RecipeError: The weights to start from do not fit.
    """
    if processes.first:
        run.require_new()
    return make_state(recipe, device)


def load_state(recipe: Recipe, run: Run, device: torch.device) -> State:
    """Return the state of the run's checkpoint; the file that ``recipe.weights`` names is not read again.

    Raises:
        RunError: The checkpoint is missing, damaged, or of another network.
    """
    state = make_state(recipe.model_copy(update={"weights": None}), device)
    path, content = newest_checkpoint(run)
    state.load(content, path)
    return state


def take_step(
    recipe: Recipe,
    state: State,
    network: nn.Module,
    processes: Processes,
    lr: Tensor,
    hr: Tensor,
    graph: CudaGraph | None = None,
    teachers: Teachers | None = None,
) -> Tensor:
    """Take one step of the optimizer.

    Args:
        recipe: Loss, precision, clipping and learning rate.
        state: Changed in place, except ``state.step``, which counts the steps before this one.
        network: ``state.model``, or its compiled form.
        processes: Their gradients are averaged.
        lr: Float ``(N, 3, h, w)`` in [0, 255].
        hr: Float ``(N, 3, scale * h, scale * w)`` in [0, 255].
        graph: Replays all but the moving average; the optimizer must be capturable.
        teachers: Give the second target of the loss.

    Returns:
        The loss before the step, a scalar on the device.
    """
    set_learning_rate(state.optimizer, learning_rate(recipe, state.step))
    update = partial(update_weights, recipe, state, network, processes)
    inputs = [lr, hr]
    if teachers:
        with backend_flags(recipe):
            inputs.append(teachers(lr))
    loss = graph(update, *inputs) if graph else update(*inputs)
    if state.ema:
        state.ema.update(state.model, state.step)
    return loss


def update_weights(
    recipe: Recipe,
    state: State,
    network: nn.Module,
    processes: Processes,
    lr: Tensor,
    hr: Tensor,
    taught: Tensor | None = None,
) -> Tensor:
    """Compute the gradient, clip it and step the optimizer; arguments as in :func:`take_step`.

    ``taught`` is the teachers' output for ``lr``.
    """
    with backend_flags(recipe):
        with torch.autocast(lr.device.type, AUTOCAST[recipe.precision], enabled=recipe.precision != "fp32"):
            sr = gray_levels(network, lr, sr_model(state.model).data_range)
        loss = loss_of(recipe, sr, hr, taught)
        del sr  # The backward pass needs the most memory, and does not need this tensor.
        state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        average_gradients(processes, state.model)
        if recipe.grad_clip:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(state.model.parameters(), recipe.grad_clip)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def loss_of(recipe: Recipe, sr: Tensor, hr: Tensor, taught: Tensor | None) -> Tensor:
    """Return the loss of a batch: against HR, mixed with the loss against the teachers' output if there is one."""
    measure = LOSSES[recipe.loss]
    if taught is None:
        return measure(sr, hr)
    share = recipe.teacher_weight
    return (1 - share) * measure(sr, hr) + share * measure(sr, taught)


def gray_levels(network: nn.Module, lr: Tensor, data_range: float) -> Tensor:
    """Return the output of a network with any data range for a float LR batch, both in [0, 255]."""
    if data_range == 255:
        out: Tensor = network(lr)
        return out.float()
    return torch.as_tensor(network(lr * (data_range / 255)).float() * (255 / data_range))


def stop_agreed(stop: StopRequest, step: int, processes: Processes, device: torch.device) -> bool:
    """Return whether a signal asks any process to stop; several processes exchange that every tenth step."""
    if processes.size > 1 and step % 10:
        return False
    return processes.any(stop.signal is not None, device)


def due(recipe: Recipe, step: int) -> tuple[bool, bool, bool]:
    """Return whether to log, to validate and to save after ``step`` steps; all are due after the last one."""
    logs, validates, saves = (
        step == recipe.steps or (every > 0 and step % every == 0)
        for every in (recipe.log_every, recipe.val_every, recipe.save_every)
    )
    return logs, validates, saves


def require_finite(state: State, processes: Processes, device: torch.device) -> None:
    """Check the weights and the loss, so that no non-finite weights replace finite ones on disk.

    Raises:
        TrainingError: In every process, if a value of any process is NaN or infinite.
    """
    values = [state.losses, *state.model.state_dict().values(), *state.network.state_dict().values()]
    finite = torch.stack([value.isfinite().all() for value in values]).all().item()
    if processes.any(not finite, device):
        loss = (state.losses / state.counted).item()
        raise TrainingError(
            f"training diverged by step {state.step} (mean loss {loss:.4g}); "
            "start again with a lower learning_rate, a longer warmup, or grad_clip=1000"
        )


def mean_loss(state: State, processes: Processes) -> float:
    """Return the mean loss since the last call, over all processes."""
    processes.average([state.losses])
    loss = (state.losses / state.counted).item()
    state.losses.zero_()
    state.counted = 0
    return loss


def measure(recipe: Recipe, network: nn.Module, validation: PairDataset, device: torch.device) -> float:
    """Return the mean PSNR in dB of the network's inference form, computed as ``fmen validate`` does."""
    upscaler = Upscaler(network, device=str(device), channels_last=False)
    protocol = recipe.val_protocol
    return validate(
        upscaler, validation, scale=recipe.scale, protocol=protocol, progress=False, measure_ssim=False
    ).psnr


def update_best(recipe: Recipe, run: Run, state: State, psnr: float) -> None:
    """Save the weights if ``psnr`` exceeds that of every validation before."""
    if psnr > state.best:
        state.best = psnr
        save_weights(recipe, state, run.best)


def save_weights(recipe: Recipe, state: State, path: Path) -> None:
    """Write the weights for use: the average, or the network where there is none."""
    module = user_module(state.network)
    metadata = {"step": str(state.step), "seconds": f"{state.seconds:.0f}", "data": " ".join(recipe.data)}
    metadata |= module.metadata() if module else {}
    save(state.network, path, recipe=recipe.name, metadata=metadata)
