"""One step of training: forward, loss, backward, clipping, optimizer, moving average."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from fmen.training.checkpoint import State
from fmen.training.cuda_graph import make_capturable
from fmen.training.distributed import no_sync
from fmen.training.losses import weighted_loss
from fmen.training.recipe import Recipe
from fmen.training.setup import backend_flags
from fmen.training.teachers import Teachers
from fmen_core.architecture import sr_model
from fmen_core.cuda_graph import CudaGraph

AUTOCAST = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def take_step(
    recipe: Recipe,
    state: State,
    network: nn.Module,
    lr: Tensor,
    hr: Tensor,
    graph: CudaGraph | None = None,
    teachers: Teachers | None = None,
) -> Tensor:
    """Take one step of the optimizer, at the learning rate that is set.

    Args:
        recipe: Loss, precision and clipping; of a run with stages, the current stage's.
        state: Changed in place, except ``state.step``, which counts the steps before this one.
        network: ``state.model``, or what runs it compiled or in several processes.
        lr: Float ``(N, 3, h, w)`` in [0, 255].
        hr: Float ``(N, 3, scale * h, scale * w)`` in [0, 255].
        graph: Replays all but the moving average; the optimizer must be capturable.
        teachers: Give the second target of the loss.

    Returns:
        The loss before the step, a scalar on the device.
    """
    update = partial(update_weights, recipe, state, network)
    inputs = [lr, hr]
    if teachers:
        with backend_flags(recipe):
            inputs.append(torch.cat([teachers(part) for part in lr.chunk(recipe.accumulate)]))
    loss = graph(update, *inputs) if graph else update(*inputs)
    if state.ema:
        state.ema.update(state.model, state.step)
    return loss


def update_weights(
    recipe: Recipe,
    state: State,
    network: nn.Module,
    lr: Tensor,
    hr: Tensor,
    taught: Tensor | None = None,
) -> Tensor:
    """Compute the gradient, in parts, clip it and step the optimizer; arguments as in :func:`take_step`.

    ``taught`` is the teachers' output for ``lr``.
    """
    parts = [inputs.chunk(recipe.accumulate) for inputs in (lr, hr, *([] if taught is None else [taught]))]
    losses = []
    with backend_flags(recipe):
        for number, part in enumerate(zip(*parts, strict=True), 1):
            with nullcontext() if number == recipe.accumulate else no_sync(network):
                losses.append(add_gradient(recipe, state, network, *part))
        if recipe.grad_clip:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(state.model.parameters(), recipe.grad_clip)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
    return torch.stack(losses).sum()


def add_gradient(
    recipe: Recipe, state: State, network: nn.Module, lr: Tensor, hr: Tensor, taught: Tensor | None = None
) -> Tensor:
    """Add the gradient of one of the ``recipe.accumulate`` parts of a batch, and return its share of the loss."""
    with torch.autocast(lr.device.type, AUTOCAST[recipe.precision], enabled=recipe.precision != "fp32"):
        sr = gray_levels(network, lr, sr_model(state.model).data_range)
    loss = loss_of(recipe, sr, hr, taught) / recipe.accumulate
    del sr  # The backward pass needs the most memory, and does not need this tensor.
    state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def loss_of(recipe: Recipe, sr: Tensor, hr: Tensor, taught: Tensor | None) -> Tensor:
    """Return the loss of a batch: against HR, mixed with the loss against the teachers' output if there is one."""
    if taught is None:
        return weighted_loss(recipe.loss, sr, hr)
    share = recipe.teacher_weight
    return (1 - share) * weighted_loss(recipe.loss, sr, hr) + share * weighted_loss(recipe.loss, sr, taught)


def gray_levels(network: nn.Module, lr: Tensor, data_range: float) -> Tensor:
    """Return the output of a network with any data range for a float LR batch, both in [0, 255]."""
    if data_range == 255:
        out: Tensor = network(lr)
        return out.float()
    return torch.as_tensor(network(lr * (data_range / 255)).float() * (255 / data_range))


def make_graph(recipe: Recipe, state: State, device: torch.device) -> CudaGraph | None:
    """Return a graph for the steps of a new optimizer, or None if the recipe has none."""
    if not recipe.cuda_graph:
        return None
    make_capturable(state.optimizer, device)
    return CudaGraph()
