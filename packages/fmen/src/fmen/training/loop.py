"""The training loop: data, step, log, validate, save, in the order in which they happen.

One process::

    fmen train --variant s --recipe fast

All GPUs of one machine, or, with torchrun's own options for the addresses, of several::

    torchrun --standalone --nproc-per-node=gpu -m fmen train --variant s --recipe fast

A batch of the recipe is that of a step, whatever the number of processes: process r of w takes samples r, r + w, ...
Gradients are averaged over the processes, which therefore hold equal networks at all times. Batch normalizations see
their own process's samples alone, as they do under PyTorch's DistributedDataParallel, and their running statistics are
averaged; so w processes train to the same quality as one, but not to the same bits.

On one CPU process in fp32, a run that was stopped and resumed ends with the same bits as one that was not: a sample
depends on the seed, the step and its slot in the batch alone, and a checkpoint holds everything else.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from fmen.errors import UserError
from fmen.training.checkpoint import State
from fmen.training.distributed import Processes, average_gradients, join
from fmen.training.ema import Ema
from fmen.training.feed import open_patches, open_validation
from fmen.training.initialization import initial_network
from fmen.training.logger import Clock, Journal
from fmen.training.losses import LOSSES
from fmen.training.muon import Muon
from fmen.training.recipe import Recipe, RecipeError
from fmen.training.run_folder import Run
from fmen.training.schedule import learning_rate
from fmen.training.signals import StopRequest
from fmen_core import Upscaler, save
from fmen_core.precision import has_bf16
from fmen_data import PairDataset, PatchSampler
from fmen_eval import validate

WORTH_COMPILING = 2_000
"""Steps of a run that make good for compiling: on two CPU cores 45 seconds, which some 900 steps of `cpu` save."""

AUTOCAST = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingError(UserError):
    """Training went astray; the message is one line and names the remedy."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: Steps done.
        best: The best validation PSNR in dB, or None if there was no validation.
        weights: The weights to use.
        signal: The signal that stopped the run before its end, or None.
    """

    step: int
    best: float | None
    weights: Path
    signal: int | None


def train(recipe: Recipe, run: Run, *, resume: bool = False) -> Outcome:
    """Train a network as ``recipe`` says, into the folder of ``run``.

    Args:
        recipe: What to do. On resuming, ``run.recipe()``, with more steps at will.
        run: Where to write: a new folder, or one with a checkpoint.
        resume: Continue from the run's checkpoint.

    Raises:
        UserError: Recipe, data or checkpoint are at fault; the message is one line.
        TrainingError: The loss is no longer a number.
        OSError: A file cannot be read or written.
    """
    with ExitStack() as stack:
        processes = stack.enter_context(join(pick_device(recipe, 0).type))
        check_split(recipe, processes)
        device = pick_device(recipe, processes.local_rank)
        recipe = recipe.model_copy(update={"precision": pick_precision(recipe, device)})
        if not resume and processes.first:
            run.require_new()

        # data: patches for every process, validation images for the first one
        sampler = open_patches(recipe, processes)
        validation = open_validation(recipe) if processes.first else None

        # network, optimizer, and all else that a checkpoint holds
        state = make_state(recipe, device)
        if resume:
            state.load(run.resume)
        journal = stack.enter_context(Journal(run, recipe, step=state.step, silent=not processes.first))
        if processes.first:
            run.begin(recipe, machine(device, processes), state.step if resume else None)
        return run_steps(recipe, run, state, sampler, validation, journal, processes, device)


def run_steps(
    recipe: Recipe,
    run: Run,
    state: State,
    sampler: PatchSampler,
    validation: PairDataset | None,
    journal: Journal,
    processes: Processes,
    device: torch.device,
) -> Outcome:
    """The loop itself, from where ``state`` stands to the recipe's last step or a signal."""
    network = cast(nn.Module, torch.compile(state.model)) if compiles(recipe, device) else state.model
    with StopRequest() as stop:
        clock = Clock(state)
        for lr, hr in sampler.batches(state.step, recipe.steps, rank=processes.rank, world_size=processes.size):
            # step
            state.losses += take_step(recipe, state, network, processes, *to_device(lr, hr, recipe, device))
            state.counted += 1
            state.step += 1
            journal.tick()
            done = state.step == recipe.steps
            # Several processes must agree, which costs them a message.
            stopped = (processes.size == 1 or state.step % 10 == 0) and processes.any(stop.signal is not None, device)

            # log
            record: dict[str, float] = {}
            if done or state.step % recipe.log_every == 0:
                rate = learning_rate(recipe, state.step - 1)
                record = {"loss": mean_loss(state, processes), "lr": rate, "steps_per_second": clock.rate()}

            # validate
            if validation and (done or (recipe.val_every and state.step % recipe.val_every == 0)):
                with clock.paused():
                    record["psnr"] = measure(recipe, state.network, validation, device)
                if record["psnr"] > state.best:
                    state.best = record["psnr"]
                    keep(recipe, state, run.best)
            clock.read()
            if record:
                journal.record({"step": state.step, "seconds": round(state.seconds, 3), **record})

            # save
            if processes.first and (done or stopped or state.step % recipe.save_every == 0):
                keep(recipe, state, run.last)
                state.save(run.resume)
            if stopped:
                break
        processes.wait()
        signal = stop.signal if state.step < recipe.steps else None
        return Outcome(state.step, state.best if math.isfinite(state.best) else None, run.weights, signal)


def take_step(recipe: Recipe, state: State, network: nn.Module, processes: Processes, lr: Tensor, hr: Tensor) -> Tensor:
    """One step of the optimizer on a batch ``(N, 3, h, w)``, ``(N, 3, scale*h, scale*w)`` of floats; its loss."""
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(recipe, state.step)
    with torch.autocast(lr.device.type, AUTOCAST[recipe.precision], enabled=recipe.precision != "fp32"):
        sr = network(lr)
    loss = LOSSES[recipe.loss](sr.float(), hr)
    del sr  # the backward pass, where memory is fullest, does without
    state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    average_gradients(processes, state.model)
    if recipe.grad_clip:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), recipe.grad_clip)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    if state.ema:
        state.ema.update(state.model, state.step)
    return loss.detach()


def to_device(lr: Tensor, hr: Tensor, recipe: Recipe, device: torch.device) -> tuple[Tensor, Tensor]:
    """uint8 patches as floats in [0, 255] on ``device``; the bytes travel, not the floats."""
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    if device.type == "cuda":
        lr, hr = lr.pin_memory(), hr.pin_memory()
    lr, hr = (tensor.to(device, non_blocking=True).to(torch.float32, memory_format=layout) for tensor in (lr, hr))
    return lr, hr


def mean_loss(state: State, processes: Processes) -> float:
    """The mean loss since it was last asked for, over all processes.

    Raises:
        TrainingError: It is not a number.
    """
    processes.average([state.losses])
    loss = (state.losses / state.counted).item()
    state.losses.zero_()
    state.counted = 0
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss} at step {state.step}: start again with a lower lr, a warmup, or grad_clip=1000"
        )
    return loss


def measure(recipe: Recipe, network: nn.Module, validation: PairDataset, device: torch.device) -> float:
    """Mean PSNR in dB of ``network``'s inference form, in the memory order in which ``fmen validate`` computes."""
    upscaler = Upscaler(network, device=str(device), channels_last=False)
    protocol = recipe.val_protocol
    return validate(
        upscaler, validation, scale=recipe.scale, protocol=protocol, progress=False, measure_ssim=False
    ).psnr


def keep(recipe: Recipe, state: State, path: Path) -> None:
    """Write the weights that the run is for."""
    metadata = {"step": str(state.step), "seconds": f"{state.seconds:.0f}", "data": " ".join(recipe.data)}
    save(state.network, path, recipe=recipe.name, metadata=metadata)


def make_state(recipe: Recipe, device: torch.device) -> State:
    """The network before the first step, and its optimizer."""
    model = initial_network(recipe).train().to(device)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "muon":
        optimizer = Muon(model.parameters(), recipe.lr, recipe.betas, recipe.eps)
    else:
        optimizer = torch.optim.Adam(model.parameters(), recipe.lr, recipe.betas, recipe.eps, fused=recipe.fused)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
    ema: Ema[nn.Module] | None = Ema(model, recipe.ema) if recipe.ema else None
    return State(model, ema, optimizer, scaler, losses=torch.zeros((), device=device))


def pick_device(recipe: Recipe, local_rank: int) -> torch.device:
    """The recipe's device, for this process.

    Raises:
        RecipeError: CUDA is asked for and not there.
    """
    available = torch.cuda.is_available()
    if recipe.device == "cuda" and not available:
        raise RecipeError("device = 'cuda', but this PyTorch sees no GPU; use --set device=cpu")
    if recipe.device == "cpu" or not available:
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def compiles(recipe: Recipe, device: torch.device) -> bool:
    """Whether to compile the network: with ``"auto"``, if the run is long and the device has a compiler.

    That depends on nothing that changes when a run is resumed. Without a compiler, PyTorch fails at the first step.
    """
    if recipe.compile != "auto":
        return recipe.compile
    if device.type == "cuda":
        compiler = importlib.util.find_spec("triton") is not None
    else:
        compiler = any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++")))
    return compiler and recipe.steps >= WORTH_COMPILING


def pick_precision(recipe: Recipe, device: torch.device) -> str:
    """The recipe's precision; ``"auto"`` is bf16 where the device computes in it, and fp32 elsewhere."""
    if recipe.precision != "auto":
        return recipe.precision
    return "bf16" if has_bf16(device) else "fp32"


def machine(device: torch.device, processes: Processes) -> dict[str, object]:
    """What the run is computed on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"device": name, "threads": torch.get_num_threads(), "processes": processes.size}


def check_split(recipe: Recipe, processes: Processes) -> None:
    """Make sure that every process gets the same share of a batch, or the mean of their gradients were not the batch's.

    Raises:
        RecipeError: It does not.
    """
    if recipe.batch % processes.size:
        raise RecipeError(f"batch = {recipe.batch} cannot be shared by {processes.size} processes; choose a multiple")
