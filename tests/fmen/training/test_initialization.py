"""The network that a run starts from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fmen.training.initialization import initial_network, initialise_he
from fmen.training.recipe import Recipe, RecipeError
from fmen_core import FMENTraining, reparameterize, save
from fmen_core.blocks.reparameterizable import BLOCKS


@pytest.mark.parametrize("block", BLOCKS)
def test_he_initialisation_keeps_biases_at_zero_and_the_signal_in_bounds(block: str) -> None:
    torch.manual_seed(0)
    model = FMENTraining(block=block)
    initialise_he(model)
    convs = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    assert not any(conv.bias.any() for conv in convs if conv.bias is not None)
    head = model.head.weight
    assert head.std().item() == pytest.approx((1 / 27) ** 0.5, rel=0.1)
    out = model.train()(torch.rand(2, 3, 16, 16) * 255)
    assert 10 < out.std().item() < 1_000


def test_a_run_starts_from_the_weights_of_another(recipe_of: Callable[..., Recipe], tmp_path: Path) -> None:
    first = initial_network(recipe_of(seed=1))
    save(first, tmp_path / "first.safetensors")
    second = initial_network(recipe_of(seed=2, weights=str(tmp_path / "first.safetensors")))
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


def test_a_run_of_another_scale_takes_all_but_the_last_convolution(
    recipe_of: Callable[..., Recipe], tmp_path: Path
) -> None:
    first = initial_network(recipe_of(seed=1))
    save(first, tmp_path / "first.safetensors")
    second = initial_network(recipe_of(seed=2, scale=2, weights=str(tmp_path / "first.safetensors")))
    assert torch.equal(first.head.weight, second.head.weight)
    assert torch.equal(second.tail[0].weight, initial_network(recipe_of(seed=2, scale=2)).tail[0].weight)


@pytest.mark.parametrize("other", ["fmen", "inference"])
def test_weights_of_another_network_or_form_are_no_start(
    recipe_of: Callable[..., Recipe], tmp_path: Path, other: str
) -> None:
    model = initial_network(recipe_of(model="fmen" if other == "fmen" else "fmen-s"))
    save(reparameterize(model) if other == "inference" else model, tmp_path / "other.safetensors")
    with pytest.raises(RecipeError, match="starts from fmen-s in the training form"):
        initial_network(recipe_of(weights=str(tmp_path / "other.safetensors")))
