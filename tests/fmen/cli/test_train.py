"""What ``fmen train`` says before, during and after a run."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fmen.cli.main import app
from fmen.training.logger import Logger
from fmen.training.recipe import Recipe, recipe_names, with_settings
from fmen.training.recipe_types import STAGE_KEYS
from fmen.training.run_folder import Run
from fmen.training.stages import Stage

TRAIN = ["train", "--recipe", "quick", "--data", "photos", "--set", "patch=8", "--set", "batch=2"]


def fmen(*arguments: str | Path, status: int = 0) -> tuple[str, str]:
    """Run a command, check its exit status, and return what it wrote to standard output and standard error."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result.stdout, result.stderr


@pytest.mark.parametrize(
    ("gpu", "keys", "name"), [(True, [], "fast"), (False, [], "cpu"), (True, ["device=cpu"], "cpu")]
)
def test_the_default_recipe_follows_the_device_and_is_named(
    work: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool, keys: list[str], name: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr("fmen.training.loop.train", lambda recipe, *_, **__: chosen.append(recipe) or sys.exit(0))
    chosen: list[Recipe] = []
    _, stderr = fmen("train", "--data", "photos", *[word for key in keys for word in ("--set", key)])
    assert chosen[0].name == name
    assert f"recipe {name}, because " in stderr and "--recipe chooses another" in stderr
    _, stderr = fmen("train", "--recipe", "quick")
    assert "because" not in stderr


def test_a_missing_folder_is_named_before_a_run_is_announced(work: Path) -> None:
    stdout, stderr = fmen("train", "--recipe", "quick", "--data", "nowhere", status=2)
    assert stdout == "" and "nowhere does not exist" in stderr and len(stderr.splitlines()) == 1
    assert not Path("runs").exists()


def test_minutes_fit_the_recipe_to_a_time(work: Path) -> None:
    stdout, _ = fmen(*TRAIN, "--minutes", "0.05", "--set", "val_data=null")
    assert stdout.startswith("measuring how many steps fit into 0.05 min\nrun runs/fmen-s_x4_quick: fmen-s x4, ")
    assert 0 < Run(work / "runs" / "fmen-s_x4_quick").recipe().steps < 1_000


def test_keys_and_recipes_are_listed_with_their_meaning() -> None:
    stdout, _ = fmen("train", "--keys")
    assert "\nlearning_rate*: number, required\n    learning rate at the end of the warm-up\n" in stdout
    assert "\nloss*: mapping, default {l1: 1}\n" in stdout and "\nscale: 2|3|4, default 4\n" in stdout
    assert "\ncompile: true|false|auto, default false\n" in stdout
    assert "\nbetas*: list of number, default [0.9, 0.999]\n" in stdout
    for name, field in Recipe.model_fields.items():
        assert field.description, name
        assert f"\n{name}{'*' if name in STAGE_KEYS else ''}: " in f"\n{stdout}"
    stdout, _ = fmen("train", "--help")
    for name in recipe_names():
        assert re.search(rf"^  {name} +[A-Z]\S* ", stdout, re.MULTILINE), name


def test_a_report_shows_a_run_before_its_end(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Logger.record

    def report(self: Logger, values: dict[str, float], stage: Stage) -> None:
        record(self, values, stage)
        if values["step"] == 2:
            with self.run.metrics.open("a") as file:
                file.write('{"step": 3, "lo')
            fmen("report", "--run", "runs/fmen-s_x4_quick", "--out", "page.html")
            self.run.metrics.write_text(self.run.metrics.read_text().replace('{"step": 3, "lo', ""))

    monkeypatch.setattr(Logger, "record", report)
    fmen(*TRAIN, "--set", "steps=4", "--set", "warmup=0", "--set", "log_every=1")
    page = Path("page.html").read_text()
    assert "2 of 4" in page and "Training loss (L1)" in page
    assert len(Run(work / "runs" / "fmen-s_x4_quick").records()) == 4


def test_a_key_is_not_given_twice(work: Path) -> None:
    for options, key in ((["--threads", "1"], "threads=2"), (["--variant", "s"], "model=span")):
        _, stderr = fmen("train", "--data", "photos", *options, "--set", key, status=2)
        given = {"threads=2": "1", "model=span": "fmen-s"}[key]
        assert f"error: --set {key}: an option gives {given}; leave one of them out\n" in stderr
    assert with_settings({"scale": 4}, {"scale": 4, "batch": 2}) == {"scale": 4, "batch": 2}
    Path("twice.yaml").write_text("steps: 1\nlearning_rate: 1.0e-3\nsteps: 2\n")
    _, stderr = fmen("train", "--recipe", "twice.yaml", status=2)
    assert stderr == "error: twice.yaml: cannot be read as YAML: line 3: steps is given twice\n"


def test_a_variant_and_the_model_of_its_name_agree(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmen.training.loop.train", lambda recipe, *_, **__: chosen.append(recipe) or sys.exit(0))
    chosen: list[Recipe] = []
    fmen("train", "--recipe", "quick", "--variant", "s", "--model", "fmen-s")
    assert chosen[0].model == "fmen-s"


def test_a_run_that_is_resumed_elsewhere_names_what_is_missing(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fmen(*TRAIN, "--set", "steps=1", "--set", "warmup=0", "--set", "val_data=null", "--out", "runs/a")
    (work / "elsewhere").mkdir()
    monkeypatch.chdir(work / "elsewhere")
    _, stderr = fmen("train", "--resume", "--out", "../runs/a", "--set", "steps=2", status=2)
    assert stderr == (
        "error: ../runs/a/recipe.yaml: its data 'photos' does not exist; resume in the folder where the run began\n"
    )
