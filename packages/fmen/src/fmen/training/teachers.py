"""Online distillation: stronger networks upscale the patches of every step, and their outputs are a second target.

This is knowledge distillation (Hinton et al., 2015) without files; ``pseudo_labels`` makes the same targets once, on
disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from fmen.training.recipe import Recipe, RecipeError
from fmen_core import ModelError, find_weights, load, reparameterize
from fmen_core.architecture import sr_model
from fmen_core.precision import convert, stalls_in_bf16

WHITE = 255.0


class Teachers:
    """The mean output of networks of one scale. They are not trained.

    Args:
        networks: Networks in the inference form, on the device of the patches.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.networks = networks

    @torch.no_grad()
    def __call__(self, lr: Tensor) -> Tensor:
        """Upscale a batch.

        Args:
            lr: Float ``(N, 3, h, w)`` in [0, 255].

        Returns:
            Float ``(N, 3, scale * h, scale * w)``, clamped to [0, 255], where all HR images are.
        """
        outputs = []
        for network in self.networks:
            white = sr_model(network).data_range
            output = network(lr * (white / WHITE)).float()
            outputs.append((output * (WHITE / white)).clamp_(0, WHITE))
        return torch.stack(outputs).mean(0)


def open_teachers(recipe: Recipe, device: torch.device) -> Teachers | None:
    """Load the networks that ``recipe.teacher`` names, in the recipe's precision; None without a teacher.

    Raises:
        RecipeError: The weights of a teacher are not on this machine or cannot be used, or it has another scale or
            cannot upscale the recipe's patches.
    """
    if not recipe.teacher:
        return None
    return Teachers([open_teacher(name, recipe, device) for name in recipe.teacher])


def open_teacher(name: str, recipe: Recipe, device: torch.device) -> nn.Module:
    """Load one teacher by the name of its weights or by their file, and run it on a patch.

    Raises:
        RecipeError: As ``open_teachers``.
    """
    side, scale = recipe.patch, recipe.scale
    try:
        network = reparameterize(load(find_weights(name))).requires_grad_(False).to(device)
        found = sr_model(network).scale
        if found != scale:
            raise RecipeError(f"teacher = {name!r}: a network of scale {found}, but the run's scale is {scale}")
        convert(network, "fp32" if stalls_in_bf16(network) else recipe.precision)
        if recipe.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        output = Teachers([network])(torch.full((1, 3, side, side), WHITE / 2, device=device))
    except ModelError as error:
        raise RecipeError(f"teacher = {name!r}: {error}") from None
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(f"teacher = {name!r}: cannot upscale patches of {side}x{side} pixels ({reason})") from None
    if output.shape[2:] != (scale * side, scale * side) or not output.isfinite().all():
        raise RecipeError(f"teacher = {name!r}: its output for a {side}x{side} patch is not an image of x{scale}")
    return network


def teacher_checksums(recipes: Iterable[Recipe]) -> dict[str, str]:
    """Return the SHA-256 of each teacher's weights file, by the name in the recipes."""
    names = dict.fromkeys(name for recipe in recipes for name in recipe.teacher)
    return {name: hashlib.sha256(find_weights(name).read_bytes()).hexdigest() for name in names}
