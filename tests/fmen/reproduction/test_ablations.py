"""The ablations of FMEN-S: exact arithmetic of the variants, their folding, and their training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fmen.errors import UserError
from fmen.reproduction import ablated_fmen, ablations, budget
from fmen.reproduction.ablated_fmen import AblatedFMEN, NormalizedHFAB, PlainHFAB
from fmen.reproduction.ablations import VARIANTS, folded, variant
from fmen.reproduction.budget import trained_run
from fmen.reproduction.result import Options
from fmen.sources.networks import build_network
from fmen.training.recipe import Recipe
from fmen.training.run_folder import Run
from fmen_core import create_model, reparameterize

SMALL = {"n_feats": 8, "mid_feats": 8}


def hfab_params(channels: int, blocks: int) -> int:
    """Parameters of an HFAB of FMEN-S after folding: squeeze, ERBs, excitate."""
    return (9 * 50 * channels + channels) + blocks * 2 * (9 * channels**2 + channels) + (9 * channels * 50 + 50)


def after_some_batches(model: nn.Module) -> nn.Module:
    """Give the BatchNorms statistics and parameters that are not the initial ones."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        for _ in range(3):
            model.train()(255 * torch.rand(2, 3, 16, 16))
    return model.eval()


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return 255 * torch.rand(1, 3, 20, 24, generator=torch.Generator().manual_seed(1))


def test_the_parameters_of_each_variant_are_those_of_its_parts() -> None:
    erb = 2 * (9 * 50 * 50 + 50)
    branch = hfab_params(16, 1)
    expected = dict.fromkeys(VARIANTS, 341_066)
    expected["HFAB after every second ERB"] -= 2 * branch
    deeper = hfab_params(16, 2) - branch
    expected["branch as deep as the trunk"] -= 2 * erb + 2 * branch - 2 * deeper
    expected["48 channels"] = 319_740
    counted = {name: sum(p.numel() for p in reparameterize(variant(name)).parameters()) for name in VARIANTS}
    assert counted == expected
    assert (counted["HFAB after every second ERB"], counted["branch as deep as the trunk"]) == (302_854, 221_934)


def test_the_defaults_are_fmen_s_in_its_training_form(pixels: Tensor) -> None:
    published = create_model("fmen-s", scale=2, block="rrrb")
    ablated = AblatedFMEN(scale=2)
    ablated.load_state_dict(published.state_dict())
    with torch.no_grad():
        for mode in (True, False):
            torch.testing.assert_close(ablated.train(mode)(pixels), published.train(mode)(pixels), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "BatchNorm padded with zeros"])
def test_every_variant_but_zero_padding_equals_its_folded_form(name: str, pixels: Tensor) -> None:
    model = after_some_batches(AblatedFMEN(**{**VARIANTS[name], **SMALL}))
    fused = reparameterize(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    with torch.no_grad():
        expected = model(pixels)
        torch.testing.assert_close(fused(pixels), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_with_zero_padding_folding_is_exact_inside_and_wrong_at_the_border() -> None:
    torch.manual_seed(0)
    block = NormalizedHFAB(8, 4, lambda: nn.Identity(), zero_padding=True)
    for bn in (block.bn1, block.bn2, block.bn3):
        nn.init.uniform_(bn.bias, 0.5, 1)
    x = torch.rand(2, 8, 12, 12)
    block.train()(x)
    difference = (block.eval()(x) - block.fused()(x)).abs().amax(dim=(0, 1))
    assert difference[2:-2, 2:-2].max() < 1e-6  # each of the two convolutions reaches one pixel further
    assert difference[0].max() > 1e-2 and difference[:, -1].max() > 1e-2


def test_zero_padding_changes_the_network_that_is_folded_and_the_shift_does_not() -> None:
    exact, wrong = folded("FMEN-S").ours, folded("BatchNorm padded with zeros").ours
    assert exact < 0.01 and wrong > 1


def test_without_the_sigmoid_the_branch_is_the_factor(pixels: Tensor) -> None:
    torch.manual_seed(0)
    plain, linear = (PlainHFAB(8, 4, nn.Identity, sigmoid=sigmoid) for sigmoid in (True, False))
    linear.load_state_dict(plain.state_dict())
    x = torch.rand(1, 8, 9, 9)
    factor = linear(x) / x
    torch.testing.assert_close(plain(x), x * torch.sigmoid(factor), rtol=1e-4, atol=1e-5)
    untrained = NormalizedHFAB(8, 4, nn.Identity, sigmoid=False).eval()
    assert torch.equal(untrained(x), x)


def test_hfabs_follow_every_second_erb_and_shortcuts_add_the_input(pixels: Tensor) -> None:
    model = AblatedFMEN(every=2, up_blocks=(2, 1, 1), shortcuts=True, **SMALL).eval()
    order: list[str] = []
    for name, module in model.named_modules():
        if name.count(".") == 1 and name.startswith(("ERBs", "HFABs")):
            module.register_forward_pre_hook(lambda _m, _x, name=name: order.append(name))
    with torch.no_grad():
        out = model(pixels)
        shallow = model.head(pixels)
        deep = model.warmup(shallow)
        for first, second, hfab in ((0, 1, 0), (2, 3, 1)):
            deep = deep + model.ERBs[first](deep)
            deep = deep + model.ERBs[second](deep)
            deep = model.HFABs[hfab](deep)
        torch.testing.assert_close(out, model.tail(model.lr_conv(deep) + shallow))
    assert order[:6] == ["ERBs.0", "ERBs.1", "HFABs.0", "ERBs.2", "ERBs.3", "HFABs.1"]
    with pytest.raises(ValueError, match="4 ERBs, 2 per HFAB, need 3 up_blocks"):
        AblatedFMEN(every=2)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_can_be_trained_as_a_network_of_a_source_file(name: str) -> None:
    network = build_network(f"{ablated_fmen.__file__}:AblatedFMEN", 4, {**VARIANTS[name], **SMALL})
    assert (network.scale, network.data_range) == (4, 255.0)


def test_times_are_relative_to_fmen_s_and_rows_are_in_the_order_of_the_variants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = {name: {**args, **SMALL} for name, args in VARIANTS.items()}
    monkeypatch.setattr(ablations, "VARIANTS", small)
    monkeypatch.setattr(ablations, "LR_SIZE", (16, 24))
    monkeypatch.setattr(ablations, "folded", lambda name: ablations.Row(name, "folding", 0.0))
    result = ablations.run(Options(runs=1, device="cpu"))
    times = {row.subject: row.ours for row in result.rows if row.quantity == "inference time"}
    increases = {row.subject: row.ours for row in result.rows if row.quantity == "time, relative to FMEN-S"}
    assert set(times) == set(VARIANTS) == {"FMEN-S", *increases}
    assert increases == pytest.approx({name: 100 * (times[name] / times["FMEN-S"] - 1) for name in increases})
    assert list(dict.fromkeys(row.subject for row in result.rows)) == list(VARIANTS)
    assert "LR image 24x16, x4; median of 1 interleaved runs" in result.conditions


def test_a_finished_run_is_read_again_and_other_data_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Recipe] = []

    def train(recipe: Recipe, run: Run, *, resume: bool) -> None:
        trained.append(recipe)
        run.begin(recipe, {})
        run.log({"step": recipe.steps // 2, "psnr": 20.0})
        run.log({"step": recipe.steps, "psnr": 21.5})

    monkeypatch.setattr(budget, "train", train)
    monkeypatch.chdir(tmp_path)
    options = Options(steps=250)
    arguments: Any = ("own", f"{ablated_fmen.__file__}:AblatedFMEN", {"sigmoid": False}, options)
    first, again, other = (trained_run(*arguments, seed) for seed in (0, 0, 1))
    assert (first.folder, other.folder.name) == (again.folder, "own_250steps_seed1")
    assert [(recipe.seed, recipe.steps, recipe.warmup, recipe.model_args) for recipe in trained] == [
        (0, 250, 25, {"sigmoid": False}),
        (1, 250, 25, {"sigmoid": False}),
    ]
    with pytest.raises(UserError, match="trained with other --data or --val-data; remove it"):
        trained_run(*arguments[:3], Options(steps=250, data="photos"), 0)
