"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from fmen.sources.networks import STATISTICS

Module = TypeVar("Module", bound=nn.Module)


class Ema(Generic[Module]):
    """The exponential moving average of a network's weights and BatchNorm statistics. Other buffers are copied.

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
        averaged, copied = list[tuple[Tensor, Tensor]](), list[tuple[Tensor, Tensor]]()
        for (name, mine), (_, theirs) in zip(named_tensors(self.model), named_tensors(model), strict=True):
            if mine.shape != theirs.shape:  # a buffer that follows the size of the images
                mine.resize_(theirs.shape)
            learned = isinstance(theirs, nn.Parameter) or name.endswith(STATISTICS)
            (averaged if learned and (mine.is_floating_point() or mine.is_complex()) else copied).append((mine, theirs))
        torch._foreach_lerp_([mine for mine, _ in averaged], [theirs for _, theirs in averaged], weight)
        if copied:
            torch._foreach_copy_([mine for mine, _ in copied], [theirs for _, theirs in copied])


def named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the parameters and buffers of a network by name; a shared one is listed, and averaged, once."""
    return [*model.named_parameters(), *model.named_buffers()]
