"""Build the network that a run starts from: random weights, or those of another run."""

from __future__ import annotations

import copy
import os
import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from fmen.errors import UserError
from fmen.sources.networks import build_network, check_output, load_network, user_module
from fmen.training.recipe import Recipe, RecipeError
from fmen_core import FMENTraining, ModelError, expand, find_weights, reparameterize
from fmen_core.architecture import StateDict, sr_model
from fmen_core.blocks.reparameterizable import set_collapsed
from fmen_core.checkpoint import normalise_keys, read_tensors
from fmen_core.fmen_deploy import SLOPE
from fmen_core.reparam import expand_into, synthetic_images


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
        tell_left_out(recipe, start_from(model, recipe))
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


def start_from(model: nn.Module, recipe: Recipe) -> list[str]:
    """Load the weights that the recipe names into ``model``.

    An inference form, or a training form with other blocks, is expanded to the training form. Tensors whose shape
    depends on the scale stay as they are if the scale differs. With ``weights_strict: false``, all that match by name
    and shape are loaded.

    Returns:
        The tensors that stay as they are.

    Raises:
        RecipeError: They are not those of the same network, or none of them matches.
        WeightsError: There is no such file or name, or it cannot be read.
    """
    assert recipe.weights is not None
    path, own = find_weights(recipe.weights), model.state_dict()
    found = matching_weights(path, model, recipe)
    if recipe.weights_strict and found is None:
        raise RecipeError(
            f"weights = {recipe.weights!r}: this is not {model.name}, as a run of it can continue from; name other "
            "weights, or load the tensors that match with --set weights_strict=false"
        )
    state = normalise_keys(read_tensors(path)) if found is None else found
    fitting = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    if not fitting:
        raise RecipeError(
            f"weights = {recipe.weights!r}: none of its tensors has the name and shape of one of {model.name}"
        )
    model.load_state_dict(own | fitting)
    return [key for key in own if key not in fitting]


def matching_weights(path: Path, model: nn.Module, recipe: Recipe) -> StateDict | None:
    """Return the weights in the form of ``model``; None if they are those of another network.

    Raises:
        WeightsError: They cannot be read.
    """
    try:
        source = load_network(path, recipe.model if user_module(model) else None)
    except (ModelError, UserError):
        if recipe.weights_strict:
            raise
        return None
    forms = [source]
    sizes, given = (getattr(network, "sizes", None) for network in (model, source))
    if user_module(model):
        if sizes == given and source.state_dict().keys() != model.state_dict().keys():
            with suppress(ModelError, RuntimeError):  # of the user's blocks, or at another scale
                forms.append(expand_into(source, copy.deepcopy(model)))
    elif sizes is not None and given is not None and (type(source) is not type(model) or given != sizes):
        own = {name: size for name, size in sizes.items() if name not in getattr(reparameterize(source), "sizes", {})}
        with suppress(ModelError):  # a network without a training form
            forms.append(expand(source, **own))
    for form in forms:
        if form.state_dict().keys() == model.state_dict().keys():
            same = type(form) is type(model) or user_module(form) is not None
            if same and getattr(form, "sizes", None) == getattr(model, "sizes", None):
                return form.state_dict()
    return None


def tell_left_out(recipe: Recipe, names: list[str]) -> None:
    """Print which tensors the recipe's weights did not set, in the first process."""
    if names and os.environ.get("RANK", "0") == "0":
        print(f"note: weights {recipe.weights}: initialised anew: {', '.join(names)}", file=sys.stderr)


def initialise_he(model: nn.Module) -> None:
    """Initialise with He et al. 2015, as section 4.1 of the paper does: normally distributed, with zero biases.

    The variance is ``1 / fan_in``, times ``2 / (1 + slope**2)`` in front of a LeakyReLU that no BatchNorm follows,
    which preserves the variance of the signal. The factor 2 in every layer would amplify it a thousandfold in FMEN,
    where most convolutions are followed by another convolution.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            rectified = name.endswith(("squeeze", "conv1.reduce_conv", "conv1.conv3x3", "conv1.bases"))
            nn.init.kaiming_normal_(module.weight, a=SLOPE, nonlinearity="leaky_relu" if rectified else "linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
