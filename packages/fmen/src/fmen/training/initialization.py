"""Build the network that a run starts from: random weights, or those of another run."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from fmen.sources.networks import build_network, check_output, load_network, user_module
from fmen.training.recipe import Recipe, RecipeError
from fmen_core import FMENTraining
from fmen_core.architecture import sr_model
from fmen_core.blocks.reparameterizable import set_collapsed
from fmen_core.fmen_deploy import SLOPE
from fmen_core.reparam import synthetic_images


def initial_network(recipe: Recipe) -> nn.Module:
    """Return the recipe's network before the first step. It depends on the recipe's seed alone.

    A network with a training form is built in it.

    Raises:
        RecipeError: The network cannot be trained, or the initial weights are not those of the recipe's network.
        UserError: The network cannot be built; see :func:`fmen.sources.networks.build_network`.
        ModelError: No network has this name, it is not defined for this scale, or the weights cannot be read.
    """
    torch.manual_seed(recipe.seed)
    model = build_network(recipe.model, recipe.scale, recipe.model_args)
    if recipe.init == "he" and isinstance(model, FMENTraining):
        initialise_he(model)
    if recipe.weights is not None:
        start_from(model, Path(recipe.weights), recipe)
    set_collapsed(model, recipe.collapsed)
    if user_module(model):
        check_trainable(model, recipe)
    return model


def check_trainable(model: nn.Module, recipe: Recipe) -> None:
    """Run a copy of a user's network forwards and backwards on patches, in training mode.

    Raises:
        RecipeError: No parameter gets a gradient.
        UserError: The forward pass fails, or its output is unusable.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise RecipeError(f"model = {recipe.model!r}: the network has no parameters to train")
    trained = copy.deepcopy(model).train()
    with torch.random.fork_rng(devices=[]):
        side = recipe.patch
        images = synthetic_images(min(recipe.batch, 2), max(64, side))[..., :side, :side]
        if (ratio := check_output(trained, images)) != recipe.scale:
            raise RecipeError(f"model = {recipe.model!r}: in training mode, it upscales by {ratio}, not {recipe.scale}")
        out = trained(images * sr_model(trained).data_range)
    if not out.requires_grad:
        raise RecipeError(f"model = {recipe.model!r}: its output has no gradient; remove no_grad() and detach()")


def start_from(model: nn.Module, path: Path, recipe: Recipe) -> None:
    """Load the weights in ``path`` into ``model``; if the scale differs, those whose shape does not depend on it.

    Raises:
        RecipeError: They are not those of the same network in the same form.
        WeightsError: They cannot be read.
    """
    source = load_network(path, recipe.model if user_module(model) else None)
    state, own = source.state_dict(), model.state_dict()
    same = type(source) is type(model) or user_module(source) is not None
    if not same or getattr(source, "sizes", None) != getattr(model, "sizes", None) or state.keys() != own.keys():
        raise RecipeError(
            f"weights = {str(path)!r}: a run of {model.name} starts from {model.name} in the training form, which runs "
            "save; this is another network or an inference form"
        )
    if sr_model(source).scale != sr_model(model).scale:
        state = {key: value if value.shape == own[key].shape else own[key] for key, value in state.items()}
    model.load_state_dict(state)


def initialise_he(model: nn.Module) -> None:
    """Initialise with He et al. 2015, as section 4.1 of the paper does: normally distributed, with zero biases.

    The variance is ``1 / fan_in``, times ``2 / (1 + slope**2)`` in front of a LeakyReLU, which preserves the variance
    of the signal. The factor 2 in every layer would amplify it a thousandfold in FMEN, where most convolutions are
    followed by another convolution.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            rectified = name.endswith(("squeeze", "conv1.reduce_conv", "conv1.conv3x3"))
            nn.init.kaiming_normal_(module.weight, a=SLOPE, nonlinearity="leaky_relu" if rectified else "linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
