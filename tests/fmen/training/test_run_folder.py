"""Run folders: how they are found, and what a resumed run may change."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from fmen.cli.main import app
from fmen.sources.runs import RunError, weights_of_runs
from fmen.training.initialization import initial_network
from fmen.training.loop import train
from fmen.training.recipe import Recipe, RecipeError, dump_recipe
from fmen.training.run_folder import Run, new_run, newest_run, resumed_recipe, versions
from fmen_core import save

RecipeMaker = Callable[..., Recipe]


def test_runs_are_numbered_and_the_newest_is_found(tmp_path: Path) -> None:
    recipe = Recipe(name="quick", steps=1, learning_rate=1e-3)
    assert weights_of_runs(tmp_path) == []
    with pytest.raises(RunError, match="no run under"):
        newest_run(tmp_path)
    names = []
    for age in (30, 10, 20):
        run = new_run(recipe, tmp_path)
        run.folder.mkdir()
        names.append(run.folder.name)
        for file in (run.best, run.resume):
            write_at(file, 1e9 - age)
    assert names == ["fmen-s_x4_quick", "fmen-s_x4_quick-2", "fmen-s_x4_quick-3"]
    order = ["fmen-s_x4_quick-2", "fmen-s_x4_quick-3", "fmen-s_x4_quick"]
    assert weights_of_runs(tmp_path) == [tmp_path / name / "best.safetensors" for name in order]
    assert newest_run(tmp_path).folder.name == "fmen-s_x4_quick-2"


def write_at(file: Path, seconds: float) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"")
    os.utime(file, (seconds, seconds))


def test_the_newest_weights_are_those_of_the_newest_run_whether_it_validates_or_not(tmp_path: Path) -> None:
    older, newer = Run(tmp_path / "older"), Run(tmp_path / "newer")
    write_at(older.best, 100)
    write_at(older.last, 110)
    write_at(newer.last, 200)
    assert weights_of_runs(tmp_path) == [newer.last, older.best]
    write_at(older.last, 300)
    assert weights_of_runs(tmp_path) == [older.best, newer.last], "the older run has gone on"


def test_the_cosine_of_a_resumed_run_keeps_its_length_unless_it_is_given(tiny: RecipeMaker, tmp_path: Path) -> None:
    whole, parts = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    train(tiny(steps=6, log_every=1), whole)
    train(tiny(steps=6, log_every=1), parts)
    assert resumed_recipe(parts, {"steps": 5}).schedule_steps == 6
    with pytest.raises(RecipeError, match=r"steps \(7\) exceeds schedule_steps \(6\).*set schedule_steps=7"):
        resumed_recipe(parts, {"steps": 7})
    with pytest.raises(RecipeError, match=r"steps \(9\) exceeds schedule_steps \(8\)"):
        resumed_recipe(parts, {"steps": 9, "schedule_steps": 8})
    stretched = resumed_recipe(parts, {"steps": 8, "schedule_steps": 12})
    assert train(stretched, parts, resume=True).step == 8
    rates = [record["lr"] for record in parts.records()]
    assert rates[:6] == [record["lr"] for record in whole.records()]
    assert rates[6:] == pytest.approx([5e-4, 3.705905e-4], rel=1e-6)
    assert (parts.recipe().steps, parts.recipe().schedule_steps) == (8, 12)


def test_other_schedules_go_on_without_being_stretched(tiny: RecipeMaker, tmp_path: Path) -> None:
    for number, keys in enumerate(({"schedule": "constant"}, {"schedule": "halving"}, {"final_learning_rate": 1e-4})):
        run = Run(tmp_path / f"{number}")
        train(tiny(steps=1, **keys), run)
        assert train(resumed_recipe(run, {"steps": 2}), run, resume=True).step == 2


def test_compiling_and_precision_are_decided_once(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "run")
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/g++")
    monkeypatch.setattr("fmen.training.setup.has_bf16", lambda device: False)
    train(tiny(steps=1, compile="auto", precision="auto"), run)
    monkeypatch.setattr("fmen.training.setup.has_bf16", lambda device: True)
    recipe = resumed_recipe(run, {"steps": 5_000, "schedule_steps": 5_000})
    assert (recipe.compile, recipe.precision) == (False, "fp32")


def test_a_resumed_run_does_not_need_the_weights_that_it_started_from(tiny: RecipeMaker, tmp_path: Path) -> None:
    first = tmp_path / "first.safetensors"
    save(initial_network(tiny(seed=1)), first)
    run = Run(tmp_path / "run")
    train(tiny(steps=2, weights=str(first)), run)
    first.unlink()
    assert train(resumed_recipe(run, {"steps": 3, "schedule_steps": 3}), run, resume=True).step == 3
    assert run.recipe().weights == str(first)


def test_resuming_with_another_network_or_rate_is_refused(tiny: RecipeMaker, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(tiny(steps=1), run)
    assert resumed_recipe(run, {"learning_rate": 1e-3, "log_every": 7}).log_every == 7
    for key in ("learning_rate", "lr"):
        with pytest.raises(RunError, match=r"its learning_rate is 0\.001 and cannot change"):
            resumed_recipe(run, {key: 2e-3})
    for keys in ({"variant": "full"}, {"model": "fmen"}):
        with pytest.raises(RunError, match=r"its model is 'fmen-s' and cannot change"):
            resumed_recipe(run, keys)
    with pytest.raises(RunError, match=r"its model_args is \{.*\} and cannot change"):
        resumed_recipe(run, {"model_args.n_feats": 9})
    assert resumed_recipe(run, {"variant": "s", "model_args.n_feats": 8}).model == "fmen-s"


def test_the_keys_that_a_resumed_run_may_change(tiny: RecipeMaker, tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.begin(tiny(), {})
    may = {
        "steps": 5,
        "schedule_steps": 7,
        "threads": 3,
        "feed": "device",
        "val_every": 11,
        "save_every": 12,
        "keep_checkpoints": 4,
        "log_every": 13,
        "val_data": ("sample",),
        "val_protocol": ("kair-y",),
        "tensorboard": True,
    }
    for key, value in may.items():
        assert getattr(resumed_recipe(run, {key: value}), key) == value
    for key, value in {"seed": 1, "batch": 4, "patch": 16, "loss": "l2", "ema": 0.5, "precision": "bf16"}.items():
        with pytest.raises(RunError, match=f"its {key} is .* and cannot change"):
            resumed_recipe(run, {key: value})


def test_resuming_with_a_recipe_is_refused_in_one_line(tiny: RecipeMaker, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    train(tiny(steps=1), run)
    before = run.resume.read_bytes()
    for recipe in ("fast", "paper"):
        result = CliRunner().invoke(app, ["train", "--resume", "--recipe", recipe, "--out", str(run.folder)])
        assert result.exit_code == 2
        assert result.stderr == (
            f"error: --recipe {recipe}: a resumed run follows the recipe in its folder; leave --recipe out\n"
        )
    assert run.resume.read_bytes() == before


def test_a_run_of_an_earlier_version_is_resumed(tiny: RecipeMaker, tmp_path: Path) -> None:
    run, whole = Run(tmp_path / "run"), Run(tmp_path / "whole")
    keys = {"steps": 6, "log_every": 1, "halve_every": 2, "final_learning_rate": 1e-4}
    train(tiny(**keys), whole)
    train(tiny(**keys | {"steps": 3, "schedule_steps": 6}), run)
    values = yaml.safe_load(run.recipe_file.read_text())
    former = {"learning_rate": "lr", "schedule": "lr_schedule", "halve_every": "lr_halve_every"}
    former["final_learning_rate"] = "lr_final"
    old = {
        former.get(key, key): value for key, value in values.items() if key not in ("schedule_steps", "feed", "tf32")
    }
    run.recipe_file.write_text(yaml.safe_dump(old | {"steps": 6}))
    train(resumed_recipe(run, {}), run, resume=True)
    assert [record["lr"] for record in run.records()] == [record["lr"] for record in whole.records()]
    found, expected = (torch.load(each.resume, weights_only=True)["model"] for each in (run, whole))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert run.recipe().schedule_steps == 6


def test_a_resumed_run_keeps_the_lines_up_to_its_checkpoint_and_the_versions_of_its_start(
    tiny: RecipeMaker, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    train(tiny(steps=2, log_every=1), run)
    begun = json.loads(run.versions.read_text())
    assert begun.items() >= versions().items()
    assert begun["device"] == "cpu" and begun["tf32"] is False and begun["processes"] == 1
    with run.metrics.open("a") as file:
        file.write('{"step": 3, "loss": 1.0}\n{"step": 4, "lo')
    assert [record["step"] for record in run.records()] == [1, 2, 3]
    run.versions.write_text("{}")
    run.begin(run.recipe(), {}, 2)
    assert [record["step"] for record in run.records()] == [1, 2]
    assert run.versions.read_text() == "{}"


def test_a_folder_without_a_run_or_without_a_checkpoint_is_named(tiny: RecipeMaker, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with pytest.raises(RunError, match=re.escape(f"{run.folder}: no run to resume (no recipe.yaml there)")):
        resumed_recipe(run, {})
    train(tiny(steps=1), run)
    run.resume.unlink()
    with pytest.raises(RunError, match="no checkpoint to resume from"):
        train(run.recipe(), run, resume=True)


def train_auto(recipe: Recipe, folder: Path, *options: str) -> Any:
    file = folder / "auto.yaml"
    file.write_text(dump_recipe(recipe))
    command = ["train", "--resume", "auto", "--recipe", str(file), "--out", str(folder / "run"), *options]
    return CliRunner().invoke(app, command, catch_exceptions=False)


def test_resume_auto_starts_a_run_and_continues_it(tiny: RecipeMaker, tmp_path: Path) -> None:
    run, recipe = Run(tmp_path / "run"), tiny(steps=3, log_every=1, compile="auto")
    assert train_auto(recipe, tmp_path).exit_code == 0
    run.log({"step": 9})
    longer = train_auto(recipe, tmp_path, "--set", "steps=5", "--set", "schedule_steps=5", "--set", "compile=auto")
    assert longer.exit_code == 0 and longer.stdout.startswith(f"run {run.folder}: fmen-s x4, 5 steps on ")
    assert [record["step"] for record in run.records()] == [1, 2, 3, 4, 5]
    refused = train_auto(recipe, tmp_path, "--set", "seed=1")
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "its seed is 0 and cannot change" in refused.stderr


def test_resume_auto_with_a_time_limit_continues_with_the_steps_that_fitted(tiny: RecipeMaker, tmp_path: Path) -> None:
    run, recipe = Run(tmp_path / "run"), tiny(steps=1000, warmup=10, val_every=500)
    options = ("--minutes", "0.05", "--set", "steps=1200", "--set", "warmup=12")
    assert train_auto(recipe, tmp_path, *options).exit_code == 0
    fitted = run.recipe()
    again = train_auto(recipe, tmp_path, *options)
    assert again.exit_code == 0
    note = f"note: --minutes, steps, warmup: ignored; the run continues with {fitted.steps} steps"
    assert note in again.stderr.splitlines()
    assert again.stdout.startswith(f"run {run.folder}: fmen-s x4, {fitted.steps} steps on ")
    assert run.recipe() == fitted


def test_resume_auto_starts_again_a_run_that_was_killed_before_its_first_checkpoint(
    tiny: RecipeMaker, tmp_path: Path
) -> None:
    run, recipe = Run(tmp_path / "run"), tiny(steps=3, log_every=1)
    run.begin(recipe, {})
    run.log({"step": 1, "loss": 0.0})
    assert train_auto(recipe, tmp_path).exit_code == 0
    assert [record["step"] for record in run.records()] == [1, 2, 3]
    assert run.records()[0]["loss"] > 0


def test_resume_auto_does_not_overwrite_weights_whose_checkpoints_are_gone(tiny: RecipeMaker, tmp_path: Path) -> None:
    run, recipe = Run(tmp_path / "run"), tiny(steps=1)
    assert train_auto(recipe, tmp_path).exit_code == 0
    before = run.last.read_bytes()
    run.resume.unlink()
    refused = train_auto(recipe, tmp_path)
    assert refused.exit_code == 2
    assert "has weights but no checkpoint; choose another --out, or remove last.safetensors" in refused.stderr
    assert run.last.read_bytes() == before


def test_resume_auto_without_a_folder_takes_the_one_that_the_recipe_names(
    tiny: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(dump_recipe(tiny(name="mine", steps=1)))
    for _ in range(2):
        assert CliRunner().invoke(app, ["train", "--recipe", "mine.yaml", "--resume=auto"]).exit_code == 0
    assert [path.name for path in Path("runs").iterdir()] == ["fmen-s_x4_mine"]


def test_a_folder_that_another_run_has_taken_meanwhile_is_refused(tiny: RecipeMaker, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.require_new()
    run.begin(tiny(), {})
    before = run.recipe_file.read_bytes()
    with pytest.raises(RunError, match="contains a run; continue it with --resume, or choose another --out"):
        run.begin(tiny(seed=1), {})
    assert run.recipe_file.read_bytes() == before


@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors"])
def test_weights_without_a_run_are_not_overwritten(tiny: RecipeMaker, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(RunError, match=f"{name}: would be overwritten; choose another --out"):
        train(tiny(), Run(tmp_path))
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(name, b"weights")]


def test_a_damaged_record_of_versions_matters_only_with_teachers(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.versions.write_text("")
    run.require_teachers({})
    with pytest.raises(RunError, match=r"versions\.json: damaged; remove it"):
        run.require_teachers({"imdn": "0"})


def test_damaged_lines_of_the_log_are_left_out(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.log({"step": 1, "loss": 2.0})
    with run.metrics.open("ab") as file:
        file.write(b'{"step": \xff}\n7\n{"loss": 1}\n{"step": 2, "lo\n')
    run.log({"step": 3, "loss": 1.0})
    assert run.records() == [{"step": 1, "loss": 2.0}, 7, {"loss": 1}, {"step": 3, "loss": 1.0}]
    run.begin(Recipe(steps=3, learning_rate=1e-3), {}, resumed_from=2)
    assert run.records() == [{"step": 1, "loss": 2.0}]
