"""Optimizers whose steps are part of a CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor


def make_capturable(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Move the learning rate and the count of steps of an optimizer to the device, so that a graph reads them there."""
    for group in optimizer.param_groups:
        for key in {"lr", "steps"} & group.keys():
            group[key] = torch.tensor(float(group[key]), device=device)
        if "capturable" in group:
            group["capturable"] = True
    for moments in optimizer.state.values():
        if "step" in moments:
            moments["step"] = moments["step"].to(device)


def make_plain(optimizer: torch.optim.Optimizer) -> None:
    """Undo ``make_capturable``: a checkpoint of a GPU can be continued without a graph."""
    for group in optimizer.param_groups:
        group.update({key: value.item() for key, value in group.items() if isinstance(value, Tensor)})
        if "capturable" in group:
            group["capturable"] = False


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group, in place where it is a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
