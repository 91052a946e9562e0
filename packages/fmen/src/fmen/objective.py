"""What training minimises and how fast it goes there: the loss and the learning rate, both pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fmen.recipe import Recipe

Loss = Callable[[Tensor, Tensor], Tensor]

CHARBONNIER_EPS = 1e-3 * 255
"""The rounding of the corner at zero: the customary 1e-3 of images in [0, 1], in gray levels."""


def charbonnier(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean of ``sqrt((sr - hr)^2 + eps^2)`` (Lai et al., LapSRN, 2017)."""
    return torch.sqrt((sr - hr).square() + CHARBONNIER_EPS**2).mean()


LOSSES: dict[str, Loss] = {"l1": F.l1_loss, "l2": F.mse_loss, "charbonnier": charbonnier}
"""Each maps two float images ``(N, 3, H, W)`` in [0, 255] to a number."""


def learning_rate(recipe: Recipe, step: int) -> float:
    """The learning rate of ``step``, the first being 0: a linear warm-up times the recipe's schedule."""
    warmup = min(1.0, (step + 1) / (recipe.warmup + 1))
    if recipe.lr_schedule == "constant":
        return recipe.lr * warmup
    if recipe.lr_schedule == "halving":
        return recipe.lr * warmup * 0.5 ** (step // recipe.lr_halve_every)
    progress = min(1.0, max(0, step - recipe.warmup) / max(1, recipe.steps - recipe.warmup))
    return warmup * (recipe.lr_final + (recipe.lr - recipe.lr_final) * 0.5 * (1 + math.cos(math.pi * progress)))
