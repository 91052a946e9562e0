"""Recipes: what they hold, and how they refuse what makes no sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fmen.training.losses import LOSSES, weighted_loss
from fmen.training.recipe import (
    Recipe,
    RecipeError,
    dump_recipe,
    load_recipe,
    make_recipe,
    parse_settings,
    recipe_names,
)
from fmen.training.recipe_types import LOSS_NAMES
from fmen.training.schedule import learning_rate


def test_the_bundled_recipes_are_valid_and_carry_their_names() -> None:
    assert set(recipe_names()) == {"paper", "fast", "cpu", "quick", "real", "staged", "fimdn"}
    for name in recipe_names():
        assert load_recipe(name).name == name


def test_paper_is_section_4_1_to_the_letter() -> None:
    recipe = load_recipe("paper")
    assert recipe.data == ("data/DIV2K", "data/Flickr2K")
    assert (recipe.patch, recipe.batch, recipe.loss, recipe.init) == (64, 64, {"l1": 1.0}, "he")
    assert (recipe.betas, recipe.eps, recipe.learning_rate, recipe.steps) == ((0.9, 0.999), 1e-8, 5e-4, 3_000_000)
    assert (recipe.precision, recipe.tf32, recipe.ema, recipe.grad_clip, recipe.warmup) == ("fp32", False, 0, 0, 0)
    rates = [learning_rate(recipe, step) for step in (0, 599_999, 600_000, 1_199_999, 1_200_000, 2_999_999)]
    assert rates == [5e-4, 5e-4, 2.5e-4, 2.5e-4, 1.25e-4, 3.125e-5]


def test_quick_needs_no_download() -> None:
    assert load_recipe("quick").data == ("sample",)


def test_a_cosine_starts_after_the_warmup_and_ends_at_its_final_rate() -> None:
    recipe = Recipe(steps=110, learning_rate=1.0, final_learning_rate=0.1, warmup=10)
    assert learning_rate(recipe, 0) == pytest.approx(1 / 11)
    assert learning_rate(recipe, 10) == 1.0
    assert learning_rate(recipe, 60) == pytest.approx(0.55)
    assert learning_rate(recipe, 110) == pytest.approx(0.1)
    assert learning_rate(recipe, 150) == pytest.approx(0.1)
    assert learning_rate(Recipe(steps=11, learning_rate=1.0, warmup=10), 11) == 0
    rates = [learning_rate(recipe, step) for step in range(110)]
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)


def test_losses_of_a_difference_of_three_gray_levels() -> None:
    sr, hr = torch.full((1, 3, 4, 4), 10.0), torch.full((1, 3, 4, 4), 13.0)
    assert LOSSES["l1"](sr, hr).item() == 3
    assert LOSSES["l2"](sr, hr).item() == 9
    assert LOSSES["charbonnier"](sr, hr).item() == pytest.approx((9 + 0.255**2) ** 0.5)
    assert LOSSES["charbonnier"](hr, hr).item() == pytest.approx(0.255)
    assert LOSSES["fft"](sr, hr).item() == pytest.approx(3 * 16 / 32)  # one of 16 complex numbers is not 0
    assert LOSSES["psnr"](sr, hr).item() == pytest.approx(10 * np.log10(9 + 20))
    assert tuple(LOSSES) == LOSS_NAMES


def test_the_frequency_loss_is_the_distance_of_the_fourier_transforms() -> None:
    sr, hr = torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(0)).mul(255), torch.zeros(2, 3, 6, 5)
    hr[..., 2:, 1:] = 100
    difference = np.fft.fft2(sr.numpy()) - np.fft.fft2(hr.numpy())
    parts = np.abs(np.stack((difference.real, difference.imag)))
    assert LOSSES["fft"](sr, hr).item() == pytest.approx(float(parts.mean()), rel=1e-5)


def test_the_psnr_loss_is_the_mean_over_the_images() -> None:
    """With 20 added to the mean squared errors 0 and 1600, the PSNRs are 35.1205 and 16.0357 dB, and 48.1308 for 1."""
    sr, hr = torch.zeros(2, 3, 4, 4), torch.stack((torch.zeros(3, 4, 4), torch.full((3, 4, 4), 40.0)))
    assert LOSSES["psnr"](sr, hr).item() == pytest.approx(48.1308 - (35.1205 + 16.0357) / 2, abs=1e-4)


def test_weighted_losses_are_added_and_a_name_alone_has_the_weight_1(tmp_path: Path) -> None:
    sr, hr = torch.full((1, 3, 4, 4), 10.0), torch.full((1, 3, 4, 4), 13.0)
    recipe = load_recipe("quick", parse_settings(["loss={l1: 2, l2: 1e-1, fft: 0.5}"]))
    assert recipe.loss == {"l1": 2.0, "l2": 0.1, "fft": 0.5}
    assert weighted_loss(recipe.loss, sr, hr).item() == pytest.approx(2 * 3 + 0.1 * 9 + 0.5 * 1.5)
    assert recipe.loss_title == "2 L1 + 0.1 L2 + 0.5 FFT"
    for loss, written in (({"l1": 1}, "loss: l1\n"), ({"l1": 1, "fft": 0.05}, "loss:\n  l1: 1.0\n  fft: 0.05\n")):
        recipe = load_recipe("quick", {"loss": loss})
        (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
        assert written in dump_recipe(recipe) and load_recipe(tmp_path / "recipe.yaml") == recipe
    assert load_recipe("quick", {"loss": "l1"}).loss_title == "L1"


def test_a_dumped_recipe_reads_back_as_itself(tmp_path: Path) -> None:
    recipe = load_recipe("fast", {"data": ("a b", "hr,lr"), "learning_rate": 3e-4, "val_data": "Ä"})
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_settings_are_read_as_people_mean_them() -> None:
    settings = parse_settings(
        ["learning_rate=1e-3", "steps=3e6", "data=x", "ema=0", "betas=[0.9, 0.99]", "compile=true"]
    )
    recipe = load_recipe("paper", settings)
    assert (recipe.learning_rate, recipe.steps, recipe.data, recipe.betas, recipe.compile) == (
        1e-3,
        3_000_000,
        ("x",),
        (0.9, 0.99),
        True,
    )


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("warm_up=3", "unknown key 'warm_up' (did you mean 'warmup'?); 'fmen train --keys' lists the keys"),
        ("optimizer.eps=1e-3", "unknown key 'optimizer.eps' (did you mean 'eps'?)"),
        ("learning_rate=2", "learning_rate = 2: give at most 1"),
        ("lr=nan", "learning_rate = 'nan': give a finite number"),
        ("scale=5", "scale = 5: give 2, 3 or 4"),
        ("loss={l1: 0}", "loss.l1 = 0: give more than 0"),
        ("loss={l1: 1, ftf: 1}", "there is no loss 'ftf'; choose from"),
        ("loss=[l1]", "give the name of a loss, or weights by name such as"),
        ("optimizer=lbfgs", "optimizer = 'lbfgs': give 'adam', 'muon', 'adamw'"),
        ("loss=l3", "loss = 'l3': there is no loss 'l3'; choose from l1, l2, charbonnier, fft, psnr"),
        ("steps=1.5", "steps = 1.5: give an integer"),
        ("threads=0", "threads = 0: give at least 1 or 'auto'"),
        ("compile=maybe", "compile = 'maybe': give true or false or 'auto'"),
        ("val_protocol=luma", "recipe quick: val_protocol.0 = 'luma': give 'ntire', 'paper' or 'kair-y'"),
        ("model_args={widths: {0: 8}}", "give numbers, text, lists, and mappings whose keys are text"),
        ("model_args.tag=2024-01-01", "give numbers, text, lists, and mappings whose keys are text"),
        ("warmup=10_000", "warmup (10000) must be shorter than the run"),
        ("final_learning_rate=0.5", "final_learning_rate (0.5) is above learning_rate (0.002)"),
        ("schedule_steps=999", "steps (1000) exceeds schedule_steps (999)"),
        ("data=[]", "data = []"),
        ("degradation=rael", "degradation = 'rael': give real, or some of its values such as {noise_sigma: [0, 10]"),
        ("degradation={noize: 1}", "degradation = {'noize': 1}: there is no 'noize'; choose from clean, twice, "),
        ("degradation={jpeg: 2}", "jpeg = 2; give a share from 0 to 1"),
        ("lr", "write it as key=value"),
        ("lr=[1", "the value is not valid YAML"),
    ],
)
def test_a_setting_at_fault_is_named_in_one_line(setting: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("quick", parse_settings([setting]))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_stages_have_their_own_steps() -> None:
    stages = [{"steps": 60}, {"steps": 70}]
    assert load_recipe("quick", {"stages": stages}).steps == 130
    with pytest.raises(RecipeError, match=r"steps \(90\) is not the sum of the stages' steps \(130\)"):
        load_recipe("quick", {"stages": stages, "steps": 90})


def test_a_missing_required_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("lr: 1.0e-3\n")
    with pytest.raises(RecipeError, match=r"mine\.yaml: steps is missing"):
        load_recipe(tmp_path / "mine.yaml")


@pytest.mark.parametrize("text", ["a: [", "just words", "- a\n- b", "1: 2", ""])
def test_a_file_that_is_not_a_recipe_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "mine.yaml")
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(
        RecipeError, match=r"no recipe 'papr' \(did you mean 'paper'\?\).*cpu, fast, fimdn, paper, quick"
    ):
        load_recipe("papr")


def test_every_fault_of_a_recipe_is_named_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("quick", {"warm_up": 3, "scale": 5, "steps": 0})
    for said in ("unknown key 'warm_up' (did you mean 'warmup'?)", "scale = 5", "steps = 0"):
        assert said in str(caught.value)
    with pytest.raises(
        RecipeError, match=r"final_learning_rate .* is above learning_rate .*; warmup .* must be shorter"
    ):
        load_recipe("quick", {"final_learning_rate": 0.5, "warmup": 5_000})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"data_weights": [1]}, "data_weights has 1 numbers for 2 datasets"),
        ({"data_weights": [0, 0]}, "data_weights are all 0"),
        ({"data_weights": [1, -1]}, r"data_weights\.1 = -1: give at least 0"),
        ({"teacher_weight": 1.5}, "teacher_weight = 1.5: give at most 1"),
    ],
    ids=str,
)
def test_weights_of_data_and_teacher_are_checked(keys: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("quick", {"data": ("sample", "sample"), **keys})


def test_former_names_of_keys_are_read_with_a_note(tmp_path: Path) -> None:
    notes: list[str] = []
    (tmp_path / "old.yaml").write_text("lr: 1.0e-3\nlr_schedule: halving\nlr_halve_every: 7\nlr_final: 0.0\nsteps: 9\n")
    overrides = parse_settings(["lr=2e-3"], note=notes.append)
    recipe = load_recipe(tmp_path / "old.yaml", overrides, note=notes.append)
    assert (recipe.learning_rate, recipe.schedule, recipe.halve_every) == (2e-3, "halving", 7)
    assert notes == [
        "note: --set: lr is now called learning_rate",
        f"note: {tmp_path / 'old.yaml'}: lr is now called learning_rate, lr_schedule is now called schedule, "
        "lr_halve_every is now called halve_every, lr_final is now called final_learning_rate",
    ]
    with pytest.raises(RecipeError, match="--set: lr is the former name of learning_rate; give only learning_rate"):
        parse_settings(["lr=2e-3", "learning_rate=2e-3"])
    load_recipe("quick", {"learning_rate": 1e-3}, note=lambda line: pytest.fail(line))


def test_fast_uses_tf32_and_paper_does_not() -> None:
    assert {name: load_recipe(name).tf32 for name in recipe_names()} == {
        "fast": True,
        "paper": False,
        "cpu": False,
        "quick": False,
        "real": False,
        "staged": True,
        "fimdn": True,
    }


def test_a_key_that_a_recipe_omits_has_its_default() -> None:
    assert Recipe(steps=9, learning_rate=1e-3).model_dump() == {
        "name": "custom",
        "model": "fmen-s",
        "model_args": {},
        "scale": 4,
        "init": "default",
        "weights": None,
        "weights_strict": True,
        "data": ("data",),
        "skip_bad": False,
        "data_weights": None,
        "degradation": None,
        "patch": 64,
        "batch": 64,
        "accumulate": 1,
        "seed": 0,
        "steps": 9,
        "minutes": None,
        "stages": (),
        "loss": "l1",
        "teacher": (),
        "teacher_weight": 0.5,
        "optimizer": "adam",
        "optimizer_args": {},
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "schedule_steps": None,
        "halve_every": 600_000,
        "final_learning_rate": 0.0,
        "warmup": 0,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "grad_clip": 0.0,
        "ema": 0.0,
        "device": "auto",
        "threads": "auto",
        "feed": "auto",
        "precision": "fp32",
        "tf32": False,
        "channels_last": True,
        "sync_batchnorm": False,
        "frozen_norms": False,
        "collapsed": True,
        "fused": False,
        "compile": False,
        "cuda_graph": "auto",
        "val_data": None,
        "val_protocol": "paper",
        "val_every": 5_000,
        "save_every": 5_000,
        "keep_checkpoints": 2,
        "log_every": 100,
        "tensorboard": False,
        "wandb": False,
    }


@pytest.mark.parametrize(
    ("key", "least", "below", "most", "above"),
    [
        ("patch", 8, 7, 512, 513),
        ("batch", 1, 0, 4096, 4097),
        ("seed", 0, -1, 2**63 - 1, 2**63),
        ("steps", 1, 0, 10**9, 1.5),
        ("learning_rate", 1e-9, 0, 1, 1.01),
        ("final_learning_rate", 0, -1e-9, 1, 1.01),
        ("schedule_steps", 3, 0, 10**9, 1.5),
        ("halve_every", 1, 0, 10**9, 1.5),
        ("warmup", 0, -1, 2, 3),
        ("eps", 1e-12, 0, 1, 1.01),
        ("grad_clip", 0, -1, 1e9, float("inf")),
        ("ema", 0, -0.1, 0.999, 1),
        ("betas", (0, 0), (0.9, -0.1), (0.999, 0.999), (0.9, 1)),
        ("val_every", 0, -1, 10**9, 1.5),
        ("save_every", 1, 0, 10**9, 1.5),
        ("keep_checkpoints", 1, 0, 1000, 1001),
        ("log_every", 1, 0, 10**9, 1.5),
    ],
)
def test_a_value_is_accepted_up_to_its_limits(key: str, least: Any, below: Any, most: Any, above: Any) -> None:
    base = {"steps": 3, "learning_rate": 1.0}
    for value in (least, most):
        assert getattr(make_recipe(base | {key: value}), key) == value
    for value in (below, above):
        with pytest.raises(RecipeError, match=key):
            make_recipe(base | {key: value})


def test_a_degradation_is_written_with_all_its_values_and_read_back(tmp_path: Path) -> None:
    recipe = load_recipe("quick", parse_settings(["degradation={noise_sigma: [0, 5]}"]))
    assert recipe.degradation is not None and recipe.degradation["noise_sigma"] == (0.0, 5.0)
    assert recipe.degradation.keys() == load_recipe("real").degradation.keys()
    (tmp_path / "quick.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "quick.yaml") == recipe


def test_degraded_patches_are_made_on_the_cpu() -> None:
    with pytest.raises(RecipeError, match="degradation is applied on the CPU; leave feed = 'device' out"):
        load_recipe("real", {"feed": "device"})
