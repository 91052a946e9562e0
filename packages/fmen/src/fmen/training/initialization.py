"""Build the network that a run starts from: random weights, or those of another run."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from fmen.training.recipe import Recipe, RecipeError
from fmen_core import FMENTraining, create_model, load
from fmen_core.blocks.reparameterizable import set_collapsed
from fmen_core.fmen_deploy import SLOPE

TAIL = "tail."
"""The prefix of the parameters that depend on the scale."""


def initial_network(recipe: Recipe) -> FMENTraining:
    """Return the recipe's network before the first step. It depends on the recipe's seed alone.

    Raises:
        RecipeError: The initial weights are not those of the recipe's network in the training form.
        WeightsError: They cannot be read.
    """
    torch.manual_seed(recipe.seed)
    model = create_model(recipe.network, recipe.scale)
    assert isinstance(model, FMENTraining)
    if recipe.init == "he":
        initialise_he(model)
    if recipe.weights is not None:
        start_from(model, Path(recipe.weights))
    set_collapsed(model, recipe.collapsed)
    return model


def start_from(model: FMENTraining, path: Path) -> None:
    """Load the weights in ``path`` into ``model``, except those of the last convolution if the scale differs.

    Raises:
        RecipeError: They are not those of the same network in the training form.
        WeightsError: They cannot be read.
    """
    source = load(path)
    if not isinstance(source, FMENTraining) or source.sizes != model.sizes:
        raise RecipeError(
            f"weights = {str(path)!r}: a run of {model.name} starts from {model.name} in the training form, which runs "
            "save; this is another network or an inference form"
        )
    state = source.state_dict()
    if source.scale != model.scale:
        state |= {key: value for key, value in model.state_dict().items() if key.startswith(TAIL)}
    model.load_state_dict(state)


def initialise_he(model: nn.Module) -> None:
    """Initialise with He et al. 2015, as section 4.1 of the paper does: normally distributed, with zero biases.

    The variance is ``1 / fan_in``, times ``2 / (1 + slope**2)`` in front of a LeakyReLU, which preserves the variance
    of the signal. The factor 2 in every layer would amplify it a thousandfold in FMEN, where most convolutions are
    followed by another convolution.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            rectified = name.endswith(("squeeze", "conv1.reduce_conv"))
            nn.init.kaiming_normal_(module.weight, a=SLOPE, nonlinearity="leaky_relu" if rectified else "linear")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
