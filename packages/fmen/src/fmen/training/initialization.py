"""The network that a run starts from: random weights, or those of another run."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from fmen.training.recipe import Recipe, RecipeError
from fmen_core import FMEN, create_model, load
from fmen_core.fmen_deploy import SLOPE

TAIL = "tail."
"""What begins the names of the parameters that depend on the scale."""


def initial_network(recipe: Recipe) -> FMEN:
    """The recipe's network before the first step; the same in every process, since all draw from the same seed.

    Raises:
        RecipeError: The weights to start from are not the recipe's network in its training form.
        WeightsError: They cannot be read.
    """
    torch.manual_seed(recipe.seed)
    model = create_model(recipe.network, recipe.scale)
    assert isinstance(model, FMEN)
    if recipe.init == "he":
        initialise_he(model)
    if recipe.weights is not None:
        start_from(model, Path(recipe.weights))
    model.collapsed = recipe.collapsed
    return model


def start_from(model: FMEN, path: Path) -> None:
    """Give ``model`` the weights in ``path``, all but its last convolution's if they are of another scale.

    Raises:
        RecipeError: They are not those of the same network in its training form.
        WeightsError: They cannot be read.
    """
    source = load(path)
    if not isinstance(source, FMEN) or source.sizes != model.sizes:
        raise RecipeError(
            f"weights = {str(path)!r}: a run of {model.name} starts from {model.name} in its training form, as a run "
            "keeps it; this is another network or an inference form"
        )
    state = source.state_dict()
    if source.scale != model.scale:
        state |= {key: value for key, value in model.state_dict().items() if key.startswith(TAIL)}
    model.load_state_dict(state)


def initialise_he(model: nn.Module) -> None:
    """Weights after He et al. 2015, as section 4.1 has them: normal, with zero biases.

    Their variance is 1 / fan-in, times 2 / (1 + slope^2) in front of a leaky rectifier, so that the signal keeps its
    size from layer to layer. The factor 2 everywhere would enlarge it a thousandfold in an FMEN, most of whose
    convolutions are followed by another one.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            rectified = name.endswith(("squeeze", "conv1.reduce_conv"))
            nn.init.kaiming_normal_(module.weight, a=SLOPE, nonlinearity="leaky_relu" if rectified else "linear")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
