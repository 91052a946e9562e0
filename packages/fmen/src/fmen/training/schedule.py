"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from fmen.training.recipe import Recipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """The learning rate of ``step``, the first being 0: a linear warm-up times the recipe's schedule."""
    warmup = min(1.0, (step + 1) / (recipe.warmup + 1))
    if recipe.lr_schedule == "constant":
        return recipe.lr * warmup
    if recipe.lr_schedule == "halving":
        return recipe.lr * warmup * 0.5 ** (step // recipe.lr_halve_every)
    progress = min(1.0, max(0, step - recipe.warmup) / max(1, recipe.steps - recipe.warmup))
    return warmup * (recipe.lr_final + (recipe.lr - recipe.lr_final) * 0.5 * (1 + math.cos(math.pi * progress)))
