"""The optimizers that a recipe names: Muon, and those of ``torch.optim``."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from fmen.training.muon import Muon
from fmen.training.recipe import Recipe, RecipeError

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "muon": Muon,
    "adamw": torch.optim.AdamW,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "adamax": torch.optim.Adamax,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "adafactor": torch.optim.Adafactor,
    "asgd": torch.optim.ASGD,
    "rprop": torch.optim.Rprop,
}
"""Optimizers by their names in a recipe."""

OTHER_KEYS = ("self", "params", "lr", "fused", "foreach", "capturable", "differentiable", "maximize")
"""Parameters of their constructors that have recipe keys of their own, or that do not change a step."""


def make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """Return the recipe's optimizer of the network's parameters, before its first step.

    Raises:
        RecipeError: ``optimizer_args`` has an argument that the optimizer does not take, or a value out of range.
    """
    kind = OPTIMIZERS[recipe.optimizer]
    parameters = inspect.signature(kind).parameters
    arguments: dict[str, Any] = {"lr": recipe.learning_rate}
    if "betas" in parameters:
        arguments |= {"betas": recipe.betas, "eps": recipe.eps}
    real = all(parameter.is_floating_point() for parameter in model.parameters())
    if "fused" in parameters and recipe.fused and real:  # PyTorch has no fused steps for complex parameters
        arguments["fused"] = True
    possible = [name for name in parameters if name not in (*OTHER_KEYS, *arguments)]
    for name in recipe.optimizer_args:
        if name not in possible:
            raise RecipeError(
                f"optimizer_args: {recipe.optimizer} takes no {name!r} here; it takes {', '.join(possible) or 'none'}"
            )
    try:
        return kind(model.parameters(), **arguments, **recipe.optimizer_args)
    except (ValueError, TypeError, RuntimeError) as error:
        raise RecipeError(f"optimizer = {recipe.optimizer!r} with {recipe.optimizer_args}: {error}") from None


def has_tensor_rate(optimizer: str) -> bool:
    """Return whether the optimizer can read its learning rate from a tensor, which a CUDA graph needs."""
    return optimizer == "muon" or "capturable" in inspect.signature(OPTIMIZERS[optimizer]).parameters
