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

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from fmen.datasets import open_patches, open_validation
from fmen.ema import Ema
from fmen.journal import Journal
from fmen.objective import LOSSES, learning_rate
from fmen.processes import Processes, average_gradients, join
from fmen.recipe import Recipe, RecipeError
from fmen.runs import Run
from fmen.state import State
from fmen.stopping import StopRequest
from fmen_core import FMEN, Upscaler, create_model, save
from fmen_data import PairDataset
from fmen_eval import validate

AUTOCAST = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingError(ValueError):
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
        ValueError: Recipe, data or checkpoint are at fault; the message is one line.
        TrainingError: The loss is no longer a number.
        OSError: A file cannot be read or written.
    """
    with ExitStack() as stack:
        processes = stack.enter_context(join(pick_device(recipe, 0).type))
        device = pick_device(recipe, processes.local_rank)
        check_split(recipe, processes)

        # data: patches for every process, validation images for the first one
        sampler = open_patches(recipe, processes)
        validation = open_validation(recipe) if processes.first else None

        # network, optimizer and all else that a checkpoint holds
        state = make_state(recipe, device)
        network = cast(nn.Module, torch.compile(state.model)) if recipe.compile else state.model
        if resume:
            state.load(run.resume)
            if processes.first:
                run.forget_after(state.step)
                run.write_recipe(recipe)
        elif processes.first:
            run.create(
                recipe, {"device": device_name(device), "threads": torch.get_num_threads(), "processes": processes.size}
            )

        stop = stack.enter_context(StopRequest())
        journal = stack.enter_context(Journal(run, recipe, step=state.step, silent=not processes.first))
        before, started = state.seconds, time.perf_counter()
        since, since_step = started, state.step

        for lr, hr in sampler.batches(state.step, recipe.steps, rank=processes.rank, world_size=processes.size):
            # step
            rate = learning_rate(recipe, state.step)
            state.losses += take_step(recipe, state, network, processes, *to_device(lr, hr, recipe, device), rate)
            state.counted += 1
            state.step += 1
            journal.tick()
            done = state.step == recipe.steps
            stopped = (
                processes.any(stop.signal is not None, device) if processes.size == 1 or state.step % 10 == 0 else False
            )

            # log
            record: dict[str, float] = {}
            if done or state.step % recipe.log_every == 0:
                loss = mean_loss(state, processes)
                now = time.perf_counter()
                record = {"loss": loss, "lr": rate, "steps_per_second": (state.step - since_step) / (now - since)}
                since, since_step = now, state.step

            # validate
            if validation and (done or (recipe.val_every and state.step % recipe.val_every == 0)):
                paused = time.perf_counter()
                psnr, ssim = measure(recipe, state.network, validation, device)
                record |= {"psnr": psnr, "ssim": ssim}
                if psnr > state.best:
                    state.best = psnr
                    keep(recipe, state, run.best)
                since += time.perf_counter() - paused  # a pause is not a slow step

            state.seconds = before + time.perf_counter() - started
            if record:
                journal.record({"step": state.step, "seconds": round(state.seconds, 3), **record})

            # save
            if processes.first and (done or stopped or state.step % recipe.save_every == 0):
                keep(recipe, state, run.last)
                state.save(run.resume)
            if stopped and not done:
                break
        processes.wait()
        ended = stop.signal if state.step < recipe.steps else None
        return Outcome(state.step, state.best if math.isfinite(state.best) else None, run.weights, ended)


def take_step(
    recipe: Recipe, state: State, network: nn.Module, processes: Processes, lr: Tensor, hr: Tensor, rate: float
) -> Tensor:
    """One step of the optimizer on a batch ``(N, 3, h, w)``, ``(N, 3, scale*h, scale*w)`` of floats; its loss."""
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    with torch.autocast(lr.device.type, AUTOCAST[recipe.precision], enabled=recipe.precision != "fp32"):
        sr = network(lr)
    loss = LOSSES[recipe.loss](sr.float(), hr)
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


def measure(recipe: Recipe, network: nn.Module, validation: PairDataset, device: torch.device) -> tuple[float, float]:
    """Mean PSNR in dB and SSIM of ``network``'s inference form."""
    upscaler = Upscaler(network, device=str(device))
    result = validate(
        upscaler, validation, scale=recipe.scale, protocol=recipe.val_protocol, total=len(validation), progress=False
    )
    return result.psnr, result.ssim or 0.0


def keep(recipe: Recipe, state: State, path: Path) -> None:
    """Write the weights that the run is for."""
    metadata = {"step": str(state.step), "seconds": f"{state.seconds:.0f}", "data": " ".join(recipe.data)}
    save(state.network, path, recipe=recipe.name, metadata=metadata)


def make_state(recipe: Recipe, device: torch.device) -> State:
    """A fresh network and its optimizer; the same in every process, since all of them draw from the same seed."""
    torch.manual_seed(recipe.seed)
    model = create_model(recipe.network, recipe.scale)
    assert isinstance(model, FMEN)
    if recipe.init == "he":
        initialise_he(model)
    model.collapsed = recipe.collapsed
    model.train().to(device)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    optimizer = torch.optim.Adam(model.parameters(), recipe.lr, recipe.betas, recipe.eps, fused=recipe.fused)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
    ema: Ema[nn.Module] | None = Ema(model, recipe.ema) if recipe.ema else None
    return State(model, ema, optimizer, scaler, losses=torch.zeros((), device=device))


def initialise_he(model: nn.Module) -> None:
    """Weights after He et al. 2015 (zero mean, variance 2 / fan-in) and zero biases, as section 4.1 has them."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


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


def device_name(device: torch.device) -> str:
    """What the device calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def check_split(recipe: Recipe, processes: Processes) -> None:
    """Make sure that every process gets the same share of a batch, or the mean of their gradients were not the batch's.

    Raises:
        RecipeError: It does not.
    """
    if recipe.batch % processes.size:
        raise RecipeError(f"batch = {recipe.batch} cannot be shared by {processes.size} processes; choose a multiple")
