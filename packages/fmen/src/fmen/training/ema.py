"""The exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


class Ema(Generic[Module]):
    """A copy of ``model`` whose weights follow it slowly.

    The statistics of the batch normalizations are averaged like the weights, to which they belong. Early on the decay
    is lower, ``(1 + step) / (10 + step)``, or the random first weights would stay for ``1 / (1 - decay)`` steps.

    Attributes:
        model: The averaged network, in eval mode.
    """

    def __init__(self, model: Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: Module, step: int) -> None:
        """Move towards ``model`` after ``step`` (the first being 0)."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        mine, theirs = self.model.state_dict(), model.state_dict()
        floats = [name for name, value in mine.items() if value.is_floating_point()]
        averages: list[Tensor] = [mine[name] for name in floats]
        torch._foreach_lerp_(averages, [theirs[name] for name in floats], weight)
        for name, value in mine.items():
            if not value.is_floating_point():  # how many batches a normalization has seen
                value.copy_(theirs[name])
