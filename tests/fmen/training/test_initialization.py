"""The network that a run starts from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fmen.training.initialization import initial_network, initialise_he
from fmen.training.recipe import Recipe, RecipeError
from fmen_core import FMENTraining, WeightsError, find_weights, load, save
from fmen_core.blocks.by_name import BLOCKS


@pytest.mark.parametrize("block", BLOCKS)
def test_he_initialisation_keeps_biases_at_zero_and_the_signal_in_bounds(block: str) -> None:
    torch.manual_seed(0)
    model = FMENTraining(block=block)
    initialise_he(model)
    convs = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    assert not any(conv.bias.any() for conv in convs if conv.bias is not None)
    head = model.head.weight
    assert head.std().item() == pytest.approx((1 / 27) ** 0.5, rel=0.1)
    last, rectified = {"rrrb": "reduce_conv", "bases": "bases"}.get(block, "conv3x3"), 2 / (1 + 0.1**2)
    gains = {f"ERBs.0.conv1.{last}": rectified, f"ERBs.0.conv2.{last}": 1, "HFABs.0.squeeze": rectified}
    for name, gain in (gains | {"HFABs.0.excitate": 1, "lr_conv": 1, "tail.0": 1}).items():
        weight = model.get_submodule(name).weight
        assert weight.std().item() == pytest.approx((gain / weight[0].numel()) ** 0.5, rel=0.05), name
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


@pytest.mark.parametrize("form", ["file", "name"])
def test_a_run_starts_from_an_inference_form_expanded_to_the_same_function(
    recipe_of: Callable[..., Recipe], tmp_path: Path, form: str
) -> None:
    source = load(find_weights("fmen-s_x4"))
    save(source, tmp_path / "inference.safetensors")
    weights = str(tmp_path / "inference.safetensors") if form == "file" else "fmen-s_x4"
    model = initial_network(recipe_of(weights=weights)).eval()
    assert isinstance(model, FMENTraining)
    image = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        expected = source(image)
        assert (model(image) - expected).abs().max() < 1e-3 * expected.abs().max()


def test_an_inference_form_of_another_scale_starts_all_but_the_last_convolution(
    recipe_of: Callable[..., Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    model = initial_network(recipe_of(seed=2, weights="fmen-s_x2"))
    fresh = initial_network(recipe_of(seed=2)).state_dict()
    source = load(find_weights("fmen-s_x2")).state_dict()
    assert torch.equal(model.state_dict()["head.weight"], source["head.weight"])
    assert torch.equal(model.state_dict()["tail.0.weight"], fresh["tail.0.weight"])
    assert capsys.readouterr().err == "note: weights fmen-s_x2: initialised anew: tail.0.weight, tail.0.bias\n"


def test_tensors_that_match_are_loaded_and_the_others_are_listed(
    recipe_of: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = initial_network(recipe_of(seed=1, model="fmen"))
    save(other, tmp_path / "other.safetensors")
    keys = {"seed": 2, "weights": str(tmp_path / "other.safetensors")}
    with pytest.raises(RecipeError, match=r"this is not fmen-s.*weights_strict=false"):
        initial_network(recipe_of(**keys))
    found = initial_network(recipe_of(**keys, weights_strict=False)).state_dict()
    fresh = initial_network(recipe_of(seed=2)).state_dict()
    same = [key for key, value in other.state_dict().items() if key in fresh and value.shape == fresh[key].shape]
    assert "tail.0.bias" in same and "head.weight" not in same
    for key, value in found.items():
        assert torch.equal(value, other.state_dict()[key] if key in same else fresh[key]), key
    listed = capsys.readouterr().err.partition("initialised anew: ")[2].strip().split(", ")
    assert listed == [key for key in fresh if key not in same]


def test_weights_of_which_nothing_matches_are_refused(recipe_of: Callable[..., Recipe], tmp_path: Path) -> None:
    torch.save({"foreign.weight": torch.ones(2)}, tmp_path / "foreign.pt")
    with pytest.raises(RecipeError, match="none of its tensors has the name and shape of one of fmen-s"):
        initial_network(recipe_of(weights=str(tmp_path / "foreign.pt"), weights_strict=False))
    with pytest.raises(WeightsError, match="no known network has these weights"):
        initial_network(recipe_of(weights=str(tmp_path / "foreign.pt")))
    with pytest.raises(WeightsError, match="no weights are called 'fmen-q'"):
        initial_network(recipe_of(weights="fmen-q"))


def test_a_run_with_more_bases_or_another_block_starts_from_the_function_of_its_weights(
    recipe_of: Callable[..., Recipe], tmp_path: Path
) -> None:
    sizes = {"n_feats": 10, "mid_feats": 8, "down_blocks": 1, "up_blocks": [1, 1]}
    args = {**sizes, "block": "bases", "ratio": 1}
    source = initial_network(recipe_of(seed=1, model="fmen", model_args=args)).eval()
    save(source, tmp_path / "one.safetensors")
    image = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0)) * 255
    for block, ratio in (("bases", 2), ("acb-bn", 2)):
        own = {**sizes, "block": block, "ratio": ratio}
        keys = {"model": "fmen", "model_args": own, "weights": str(tmp_path / "one.safetensors")}
        model = initial_network(recipe_of(seed=2, **keys)).eval()
        assert isinstance(model, FMENTraining) and (model.sizes["block"], model.sizes["ratio"]) == (block, ratio)
        with torch.no_grad():
            assert (model(image) - source(image)).abs().max() < 0.1
