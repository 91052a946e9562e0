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
        mine, theirs = self.model.state_dict(), model.state_dict()
        floats = [name for name, value in mine.items() if value.is_floating_point()]
        averages: list[Tensor] = [mine[name] for name in floats]
        torch._foreach_lerp_(averages, [theirs[name] for name in floats], weight)
        for name, value in mine.items():
            if not value.is_floating_point():  # BatchNorm's count of batches
                value.copy_(theirs[name])
