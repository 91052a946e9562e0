"""What a run decides and builds before its first step: device, precision, network, optimizer."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from fmen.training.boards import missing_boards
from fmen.training.checkpoint import State
from fmen.training.distributed import Processes
from fmen.training.ema import Ema
from fmen.training.initialization import initial_network
from fmen.training.optimizers import has_tensor_rate, make_optimizer
from fmen.training.recipe import Recipe, RecipeError
from fmen.training.schedule import cosine_length
from fmen_core.precision import float32_mode, has_bf16, stalls_in_bf16

COMPILE_FROM = 2_000
"""The shortest run, in steps, for which compiling pays off: ``tools/bench/training.py`` prints the break-even step."""

COMPILE_FROM_MINUTES = 20
"""The same for a run of a given time."""


def check_recipe(recipe: Recipe, processes: Processes) -> None:
    """Check a recipe against this machine, before any data is prepared.

    Raises:
        RecipeError: One line with every fault.
    """
    faults = []
    if recipe.device == "cuda" and not torch.cuda.is_available():
        faults.append("device = 'cuda', but this PyTorch sees no GPU; use --set device=cpu")
    for part in recipe.stage_recipes():
        faults += [fault for fault in [batch_fault(part, processes)] if fault and fault not in faults]
    if recipe.sync_batchnorm and device_type(recipe) == "cpu":
        faults.append("sync_batchnorm = true, which PyTorch has for GPUs only")
    faults += [f"{key} = true, but it is not installed: pip install 'fmen[{key}]'" for key in missing_boards(recipe)]
    if faults:
        raise RecipeError("; ".join(faults))


def batch_fault(recipe: Recipe, processes: Processes) -> str:
    """Return why the batch cannot be divided into equal parts, whose mean gradient is that of the batch, or ""."""
    if recipe.batch % processes.size:
        return f"batch = {recipe.batch} is not a multiple of the {processes.size} processes"
    share = recipe.batch // processes.size
    if share % recipe.accumulate:
        each = f" of the {processes.size} processes" if processes.size > 1 else ""
        return f"accumulate = {recipe.accumulate} does not divide the {share} patches{each}"
    return ""


def resolve_recipe(recipe: Recipe, device: torch.device, processes: Processes) -> Recipe:
    """Replace every ``auto`` whose choice affects the result, so that the run folder records it.

    A resumed run then repeats the choices of its first start, also on another machine.
    """
    return recipe.model_copy(
        update={
            "precision": pick_precision(recipe, device),
            "compile": compiles(recipe, device),
            "cuda_graph": captures(recipe, device, processes),
            "schedule_steps": cosine_length(recipe),
        }
    )


def device_type(recipe: Recipe) -> str:
    """Return ``"cuda"`` or ``"cpu"``."""
    return "cuda" if recipe.device != "cpu" and torch.cuda.is_available() else "cpu"


def pick_device(recipe: Recipe, local_rank: int) -> torch.device:
    """Return the device of this process, and make it PyTorch's current one."""
    if device_type(recipe) == "cpu":
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def pick_precision(recipe: Recipe, device: torch.device) -> str:
    """Return the recipe's precision; ``"auto"`` is bf16 on a device with bf16 instructions and fp32 elsewhere."""
    if recipe.precision != "auto":
        return recipe.precision
    return "bf16" if has_bf16(device) else "fp32"


def compiles(recipe: Recipe, device: torch.device) -> bool:
    """Return whether to compile the network.

    ``"auto"`` compiles a run of at least ``COMPILE_FROM`` steps where the device has a compiler; without one, PyTorch
    fails at the first step.
    """
    if recipe.compile != "auto":
        return recipe.compile
    if device.type == "cuda":
        compiler = importlib.util.find_spec("triton") is not None
    else:
        compiler = any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++")))
    if recipe.minutes:
        return compiler and recipe.minutes >= COMPILE_FROM_MINUTES
    return compiler and (recipe.schedule_steps or recipe.steps) >= COMPILE_FROM


def captures(recipe: Recipe, device: torch.device, processes: Processes) -> bool:
    """Return whether to run a step as one CUDA graph, which neither averages gradients nor skips a step of fp16."""
    possible = device.type == "cuda" and processes.size == 1 and recipe.precision != "fp16"
    possible = possible and has_tensor_rate(recipe.optimizer)
    return bool(recipe.cuda_graph) and possible


def make_state(recipe: Recipe, device: torch.device) -> State:
    """Build the network before the first step, its average, its optimizer and its loss scaler.

    Raises:
        RecipeError: The network cannot be computed in the recipe's precision.
    """
    model: nn.Module = initial_network(recipe).train().to(device)
    if recipe.precision == "bf16" and stalls_in_bf16(model):
        raise RecipeError(f"precision = bf16, in which {recipe.model} never ends on a CPU; use --set precision=fp32")
    if recipe.sync_batchnorm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    if recipe.frozen_norms:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(recipe, model)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
    ema: Ema[nn.Module] | None = Ema(model, recipe.ema) if recipe.ema else None
    return State(model, ema, optimizer, scaler, losses=torch.zeros((), device=device))


@contextmanager
def backend_flags(recipe: Recipe) -> Iterator[None]:
    """Set PyTorch's process-wide flags for a training step, and restore them afterwards.

    Convolutions and matrix products in float32 use TF32 on a GPU only if the recipe says ``tf32: true``; PyTorch's own
    default is TF32 for convolutions. cuDNN measures its algorithms, since every step has the same shapes.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        with float32_mode(tf32=recipe.tf32):
            yield
    finally:
        torch.backends.cudnn.benchmark = before


def device_title(recipe: Recipe, device: torch.device) -> str:
    """Return the name of a GPU with the number formats of a step, or "the CPU"."""
    if device.type != "cuda":
        return "the CPU"
    return f"{torch.cuda.get_device_name(device)} in {recipe.precision}, TF32 {'on' if recipe.tf32 else 'off'}"


def machine(recipe: Recipe, device: torch.device, processes: Processes) -> dict[str, object]:
    """Return what the run is computed on, for ``versions.json``."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    tf32 = recipe.tf32 and device.type == "cuda"
    return {"device": name, "tf32": tf32, "threads": torch.get_num_threads(), "processes": processes.size}
