"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


class Ema(Generic[Module]):
    """The exponential moving average of a network's weights and BatchNorm statistics.

    The decay of the first steps is ``(1 + step) / (10 + step)``; with the full decay, the random initial weights would
    dominate the average for ``1 / (1 - decay)`` steps.

    Attributes:
        model: The averaged network, in eval mode.
    """

    def __init__(self, model: Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: Module, step: int) -> None:
        """Include the weights of ``model`` after ``step``, counted from 0."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        floats, counts = list[tuple[Tensor, Tensor]](), list[tuple[Tensor, Tensor]]()
        for mine, theirs in zip(tensors_of(self.model), tensors_of(model), strict=True):
            (floats if mine.is_floating_point() else counts).append((mine, theirs))
        torch._foreach_lerp_([mine for mine, _ in floats], [theirs for _, theirs in floats], weight)
        if counts:  # BatchNorm's counts of batches
            torch._foreach_copy_([mine for mine, _ in counts], [theirs for _, theirs in counts])


def tensors_of(model: nn.Module) -> list[Tensor]:
    """Return the parameters and buffers of a network, each once: a shared one is averaged once."""
    return [*model.parameters(), *model.buffers()]
