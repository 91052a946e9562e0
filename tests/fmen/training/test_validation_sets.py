"""Several validation sets and protocols in one run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from fmen.errors import UserError
from fmen.report.page import training_part
from fmen.training.loop import train
from fmen.training.recipe import Recipe, RecipeError, dump_recipe, load_recipe
from fmen.training.run_folder import Run, resumed_recipe
from fmen_core import Upscaler, load
from fmen_data import open_dataset, write_image
from fmen_eval import validate

RecipeMaker = Callable[..., Recipe]


@pytest.fixture
def several(tiny: RecipeMaker, photos: Path) -> Recipe:
    """A recipe with two validation sets and two protocols."""
    return tiny(val_data=[str(photos), "sample"], val_protocol=["ntire", "paper"], val_every=3, steps=6, ema=0.9)


def test_every_set_and_protocol_has_a_curve_and_the_first_chooses_the_best_weights(
    several: Recipe, tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path / "run")
    outcome = train(several, run)
    name = photos.name
    names = ["psnr", f"psnr/{name}/paper", "psnr/sample-val/ntire", "psnr/sample-val/paper"]
    curves = {key: [record[key] for record in run.records() if key in record] for key in names}
    assert all(len(values) == 2 for values in curves.values())
    assert outcome.best == max(curves["psnr"])
    upscaler = Upscaler(load(run.last), device="cpu", channels_last=False)
    for key, values in curves.items():
        source, protocol = ("sample" if "sample" in key else photos), ("paper" if "paper" in key else "ntire")
        pairs = open_dataset(source, scale=4, split="val")
        expected = validate(upscaler, pairs, scale=4, protocol=protocol, progress=False).psnr  # type: ignore[arg-type]
        assert values[-1] == pytest.approx(expected, abs=1e-9), key
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"  {name} paper {curves[names[1]][-1]:.2f} dB  sample-val ntire " in line


def test_other_images_under_the_same_name_choose_the_best_weights_anew(tiny: RecipeMaker, tmp_path: Path) -> None:
    run, black = Run(tmp_path / "run"), tmp_path / "black/val"
    for folder, level in ((tmp_path / "noise/val", 255), (black, 0)):
        noise = np.random.default_rng(0).integers(0, level + 1, (32, 32, 3)).astype(np.uint8)
        write_image(folder / "a.png", noise)
    train(tiny(val_data=str(black), steps=2, schedule_steps=4), run)
    best = run.best.read_bytes()
    train(resumed_recipe(run, {"steps": 3, "val_data": ()}), run, resume=True)
    train(resumed_recipe(run, {"steps": 4, "val_data": str(tmp_path / "noise/val")}), run, resume=True)
    first, second = (record["psnr"] for record in run.records() if "psnr" in record)
    assert second < first and run.best.read_bytes() != best


def test_sets_of_the_same_name_are_refused(tiny: RecipeMaker, tmp_path: Path, photos: Path) -> None:
    other = tmp_path / photos.name
    shutil.copytree(photos, other)
    with pytest.raises(UserError, match=f"--val-data: the datasets have the names {other.name}, {other.name};"):
        train(tiny(val_data=[str(photos), str(other)]), Run(tmp_path / "run"))


def test_an_image_is_upscaled_once_for_all_protocols(
    several: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, upscaled = Upscaler.__call__, []
    monkeypatch.setattr(Upscaler, "__call__", lambda self, lr: upscaled.append(lr.shape) or run(self, lr))
    train(several.model_copy(update={"val_every": 0}), Run(tmp_path / "run"))
    images = sum(len(open_dataset(source, scale=4, split="val")) for source in several.val_data or ())
    assert len(upscaled) == images


def test_the_report_shows_the_curves_of_its_protocol_and_a_recipe_with_one_set_is_written_as_before(
    several: Recipe, tiny: RecipeMaker, tmp_path: Path, photos: Path
) -> None:
    run = Run(tmp_path / "run")
    train(several, run)
    shown = {protocol: training_part([run], protocol) for protocol in ("ntire", "paper")}
    captions = {protocol: [chart.caption for chart in part["curves"]] for protocol, part in shown.items()}
    first, last = "Training loss (L1)", "Learning rate"
    psnr = "Validation PSNR in dB"
    assert captions["ntire"] == [first, f"{psnr} (ntire)", f"{psnr} on sample-val (ntire)", last]
    assert captions["paper"] == [first, f"{psnr} on {photos.name} (paper)", f"{psnr} on sample-val (paper)", last]
    assert run.recipe().val_protocol == ("ntire", "paper")
    values = yaml.safe_load(dump_recipe(tiny(val_data="sample")))
    assert (values["val_data"], values["val_protocol"]) == ("sample", "paper")


def test_bad_protocols_are_refused_and_single_ones_read() -> None:
    assert load_recipe("quick", {"val_protocol": "ntire"}).val_protocol == ("ntire",)
    for value in ("psnr", ["paper", "psnr"], []):
        with pytest.raises(RecipeError, match="val_protocol"):
            load_recipe("quick", {"val_protocol": value})
