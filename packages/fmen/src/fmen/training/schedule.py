"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from fmen.training.recipe import Recipe


def cosine_length(recipe: Recipe) -> int | None:
    """Return the steps of the recipe's cosine; None for a run with stages, each of which has a cosine of its own."""
    return None if recipe.stages else recipe.schedule_steps or recipe.steps


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of ``step``, counted from 0: a linear warm-up times the recipe's schedule.

    The cosine falls from the end of the warm-up to step ``schedule_steps`` and then stays at its final rate.
    """
    warmup = min(1.0, (step + 1) / (recipe.warmup + 1))
    if recipe.schedule == "constant":
        return recipe.learning_rate * warmup
    if recipe.schedule == "halving":
        return recipe.learning_rate * warmup * 0.5 ** (step // recipe.halve_every)
    length = recipe.schedule_steps or recipe.steps
    progress = min(1.0, max(0, step - recipe.warmup) / max(1, length - recipe.warmup))
    final = recipe.final_learning_rate
    return warmup * (final + (recipe.learning_rate - final) * 0.5 * (1 + math.cos(math.pi * progress)))
