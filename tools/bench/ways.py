"""The ways of training FMEN-S x4 that the benchmarks compare, and what they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from measure import Action, Report
from published import Published
from torch import Tensor, nn

from fmen.training.cuda_graph import make_capturable
from fmen.training.loop import take_step
from fmen.training.recipe import load_recipe, make_recipe
from fmen.training.setup import make_state
from fmen_core import FMENTraining
from fmen_core.cuda_graph import CudaGraph
from fmen_eval.runtime import allocated_by

SCALE = 4
TARGETS = {"fp32": 2.8, "bf16": 4.0}
PUBLISHED = "the expanded form, eager, as published"
TOLERANCE = 1e-9
ZERO_GRADIENTS = ("bn2.bias", "excitate.bias")
"""Constants in front of a BatchNorm, whose gradients are rounding errors on both sides."""


@dataclass(frozen=True)
class Way:
    """A way of training: a step on a batch of floats, and the model, optimizer and memory format behind it."""

    take: Callable[[Tensor, Tensor], object]
    model: nn.Module
    optimizer: torch.optim.Optimizer
    layout: torch.memory_format

    def on(self, batch: int, patch: int, device: str = "cpu") -> Action:
        """Return a step on random patches that stay in memory."""
        lr, hr = (
            torch.randint(256, (batch, 3, side, side), device=device).to(torch.float32, memory_format=self.layout)
            for side in (patch, SCALE * patch)
        )
        return lambda: self.take(lr, hr)

    def peak_bytes(self, batch: int, patch: int, device: str = "cpu") -> int:
        """Return the peak memory of a step: weights, statistics, moments, batch, and what the step allocates."""
        step = self.on(batch, patch, device)
        step()
        moments = (value for state in self.optimizer.state.values() for value in state.values())
        tensors = (*self.model.parameters(), *self.model.buffers(), *moments)
        standing = sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))
        standing += 4 * 3 * batch * patch**2 * (1 + SCALE**2)
        if device == "cpu":
            return standing + allocated_by(lambda: cast(None, step()))
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return standing + torch.cuda.max_memory_allocated() - before


def published(device: str = "cpu") -> Way:
    """Train as the published code does: the expanded form, eager, NCHW, fp32, PyTorch's default Adam."""
    torch.manual_seed(0)
    model = Published(FMENTraining()).train().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)

    def take(lr: Tensor, hr: Tensor) -> None:
        F.l1_loss(model(lr), hr).backward()
        optimizer.step()
        optimizer.zero_grad()

    return Way(take, model, optimizer, torch.contiguous_format)


def ours(
    precision: str,
    compiled: Mapping[str, Any] | None = None,
    device: str = "cpu",
    *,
    graph: bool = False,
    optimizer: str = "adam",
) -> Way:
    """Train as ``fmen train`` does; ``compiled`` has the options of ``torch.compile``, None is eager."""
    settings = {"steps": 1, "learning_rate": 5e-4, "schedule": "constant", "fused": optimizer == "adam"}
    recipe = make_recipe(settings | {"precision": precision, "device": device, "optimizer": optimizer})
    state = make_state(recipe, torch.device(device))
    network = state.model if compiled is None else cast(nn.Module, torch.compile(state.model, **compiled))
    captured = CudaGraph() if graph else None
    if captured:
        make_capturable(state.optimizer, torch.device(device))

    def take(lr: Tensor, hr: Tensor) -> object:
        return take_step(recipe, state, network, lr, hr, captured)

    return Way(take, state.model, state.optimizer, torch.channels_last)


def step_of(network: nn.Module, owner: nn.Module, lr: Tensor, hr: Tensor) -> tuple[dict[str, Tensor], ...]:
    """Return the gradients by parameter, and the output and the running statistics by name."""
    sr = network(lr)
    F.l1_loss(sr, hr).backward()
    gradients = {name: cast(Tensor, parameter.grad) for name, parameter in owner.named_parameters()}
    statistics = {name: buffer for name, buffer in owner.named_buffers() if buffer.is_floating_point()}
    return gradients, {"output": sr.detach(), **statistics}


def difference(ours: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """Return the largest relative difference of a tensor, by its norm."""
    names = [name for name in reference if not name.endswith(ZERO_GRADIENTS) and reference[name].norm() > 0]
    apart = ((ours[name] - reference[name]).double().norm() / reference[name].double().norm() for name in names)
    return max(float(value) for value in apart)


def randomised(dtype: torch.dtype = torch.float64, block: str = "rrrb") -> FMENTraining:
    """Return an FMEN-S whose BatchNorms are far from the identity."""
    torch.manual_seed(0)
    model = FMENTraining(block=block).to(dtype).train()
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if ".bn" in name and tensor.is_floating_point():
                tensor.uniform_(0.3, 2)
    return model


def check(report: Report, patch: int = 12) -> None:
    """Verify in float64 that the published way and ours compute the same step."""
    model, twin = randomised(), randomised()
    lr, hr = (torch.rand(2, 3, side, side, dtype=torch.float64) * 255 for side in (patch, SCALE * patch))
    theirs, mine = step_of(Published(model), model, lr, hr), step_of(twin, twin, lr, hr)
    gradients, rest = (difference(*pair) for pair in zip(mine, theirs, strict=True))
    if max(gradients, rest) > TOLERANCE:
        raise SystemExit(f"the two ways differ by {rest:.1e} in the output and by {gradients:.1e} in a gradient")
    report.checks["relative difference of output and running statistics, in float64"] = rest
    report.checks["relative difference of a parameter's gradient, in float64"] = gradients


def state_hours(report: Report, seconds: Mapping[str, float], batch: int, patch: int) -> None:
    """Add the duration of the recipes ``paper`` and ``fast``, from the seconds of a step in each way."""
    report.facts[f"days of a whole run, {batch} patches of {patch}x{patch}"] = {
        f"{recipe.steps:,} steps of {recipe.name}, {name}": {"s per step": value, "days": recipe.steps * value / 86400}
        for recipe in (load_recipe("paper"), load_recipe("fast"))
        for name, value in seconds.items()
    }
