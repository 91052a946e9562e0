"""The command line: exit statuses, one-line errors, and the files that other programs read."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fmen.cli.main import app
from fmen.training.logger import Logger
from fmen.training.run_folder import Run
from fmen_core import FMENTraining, create_model, load, read_metadata, save
from fmen_data import list_images, read_image

TRAIN = ["train", "--recipe", "quick", "--data", "photos", "--set", "patch=8", "--set", "batch=2"]


@pytest.fixture
def weights(work: Path) -> Path:
    """FMEN-S x4 in its training form, with fresh weights."""
    torch.manual_seed(0)
    save(create_model("fmen-s"), work / "w.safetensors", recipe="none")
    return work / "w.safetensors"


def fmen(*arguments: str | Path, status: int = 0) -> tuple[str, str]:
    """Run a command, check its exit status, and return what it wrote to standard output and standard error."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result.stdout, result.stderr


def error_of(*arguments: str | Path) -> str:
    """The one line that a command at fault writes to standard error."""
    _, stderr = fmen(*arguments, status=2)
    assert stderr.startswith("error: ") and stderr.count("\n") == 1, stderr
    return stderr


def test_train_then_validate_then_resume(work: Path) -> None:
    settings = ["--set", "steps=12", "--set", "warmup=4", "--set", "val_every=6"]
    stdout, _ = fmen(*TRAIN, "--val-data", "photos", *settings)
    assert "run runs/fmen-s_x4_quick: fmen-s x4, 12 steps" in stdout
    assert "done: 12 steps, best" in stdout

    stdout, _ = fmen("validate", "--data", "photos", "--protocol", "paper", "--json", "result.json")
    assert "weights runs/fmen-s_x4_quick/best.safetensors: fmen-s x4, training form, re-parameterized" in stdout
    result = json.loads((work / "result.json").read_text())
    assert result.keys() == {"model", "weights", "protocol", "scale", "mean", "images"}
    assert (result["model"], result["protocol"], result["scale"]) == ("fmen-s", "paper", 4)
    assert [image["name"] for image in result["images"]] == ["one", "two"]
    assert result["images"][0].keys() == {"name", "psnr", "ssim", "seconds"}
    best = max(record.get("psnr", 0) for record in Run(work / "runs" / "fmen-s_x4_quick").records())
    assert result["mean"]["psnr"] == pytest.approx(best, abs=1e-6)

    fmen("train", "--resume", "--set", "steps=13", "--set", "schedule_steps=13")
    assert Run(work / "runs" / "fmen-s_x4_quick").records()[-1]["step"] == 13


def test_an_interrupted_run_says_how_to_continue(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Logger, "tick", lambda self: os.kill(os.getpid(), signal.SIGTERM))
    _, stderr = fmen(*TRAIN, "--set", "steps=70", status=128 + signal.SIGTERM)
    assert "stopped after step 1 of 70; continue with: fmen train --resume --out runs/fmen-s_x4_quick" in stderr
    monkeypatch.setattr(Logger, "tick", lambda self: os.kill(os.getpid(), signal.SIGINT))
    fmen("train", "--resume", "--out", "runs/fmen-s_x4_quick", status=130)
    assert torch.load("runs/fmen-s_x4_quick/resume.pt", weights_only=True)["step"] == 2


def test_ctrl_c_outside_the_training_loop_is_no_traceback(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fmen.training.loop.open_patches", interrupted)
    _, stderr = fmen(*TRAIN, status=130)
    assert stderr == "error: interrupted\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--recipe", "slow"], "no recipe 'slow'"),
        ([*TRAIN, "--set", "learning_rate=9"], "learning_rate = 9: give at most 1"),
        ([*TRAIN, "--set", "optimiser=sgd"], "unknown key 'optimiser'"),
        ([*TRAIN, "--scale", "5"], "scale = 5: give 2, 3 or 4"),
        ([*TRAIN, "--set", "patch=100"], "smaller than a 100x100 patch"),
        (["train", "--recipe", "quick", "--data", "nowhere"], "nowhere does not exist"),
        (["train", "--recipe", "paper"], "data/DIV2K does not exist"),
        (["train", "--resume"], "no run under runs/ to resume: start one with 'fmen train'"),
        (["train", "--resume", "--out", "photos"], "photos: no run to resume"),
        (["validate", "--weights", "photos/one.png"], "photos/one.png: not a weights file"),
        (["validate", "--weights", "none.pth"], "none.pth: no such weights file"),
        (["validate", "--weights", "w.safetensors", "--data", "nowhere"], "nowhere does not exist"),
        (["validate", "--weights", "w.safetensors", "--data", "photos", "--device", "cuda"], "no CUDA GPU"),
        (
            ["validate", "--weights", "w.safetensors", "--data", "photos", "--json", "w.safetensors/r.json"],
            "w.safetensors: Not a directory",
        ),
        (["upscale", "nothing.png", "-o", "out"], "nothing.png: no such file or folder"),
        (["upscale", "photos", "-o", "out", "--tile", "x"], "--tile x: give a number of pixels, or auto"),
        (["upscale", "photos", "-o", "out", "--weights", "w.safetensors", "--tile", "3"], "a tile of 3 pixels"),
        (["reparam", "photos", "out.safetensors"], "photos: is a folder"),
        (["reparam", "w.safetensors"], "w.safetensors: exists already; name the weights and the file to write"),
        (["reparam", "w.safetensors", "a.pth"], "a.pth: end the name in .safetensors"),
        (["reparam", "w.safetensors", "a", "b"], "b: one argument too many; give the weights and the file to write"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
@pytest.mark.usefixtures("weights")
def test_bad_input_is_one_line_and_exit_status_2(work: Path, arguments: list[str], said: str) -> None:
    before = sorted(work.iterdir())
    assert said in error_of(*arguments)
    assert {path.name for path in work.iterdir()} - {path.name for path in before} <= {"cache"}


def test_upscale_writes_files_and_folders(work: Path, weights: Path) -> None:
    fmen("upscale", "photos/one.png", "-o", "big/one.png", "--weights", weights)
    assert read_image(work / "big" / "one.png").shape == (192, 256, 3)
    fmen("upscale", "photos", "-o", "all", "--weights", weights, "--tile", "32")
    assert [path.name for path in list_images(work / "all")] == ["one.png", "two.png"]
    assert np.array_equal(read_image(work / "all" / "one.png"), read_image(work / "big" / "one.png"))


def test_reparam_writes_the_inference_form_of_the_same_function(work: Path, weights: Path) -> None:
    fmen("reparam", weights, "deploy.safetensors")
    model = load(work / "deploy.safetensors")
    assert not isinstance(model, FMENTraining)
    assert read_metadata(work / "deploy.safetensors")["recipe"] == "none"
    x = torch.rand(1, 3, 9, 11) * 255
    with torch.no_grad():
        torch.testing.assert_close(model(x), load(weights)(x), rtol=1e-4, atol=1e-2)
    assert "in its inference form; there is nothing" in error_of("reparam", "deploy.safetensors", "again.safetensors")


def test_models_lists_the_parameters_of_the_inference_form() -> None:
    head, *lines = [line.split(maxsplit=2) for line in fmen("models")[0].splitlines()]
    assert head == ["network", "parameters", "by"]
    assert ["fmen-s", "341,066", "Du et al., NTIRE 2022, team NJU_Jet"] in lines
    assert ["fmen", "769,428", "Du et al., NTIRE 2022, team NJU_Jet"] in lines


def test_models_takes_patterns() -> None:
    names = [line.split()[0] for line in fmen("models", "span*", "fmen")[0].splitlines()[1:]]
    assert {"fmen", "span", "spanv2"} <= set(names) and "imdn" not in names
    assert "no match for 'spam'; did you mean span?" in error_of("models", "spam")


def test_paths_in_messages_are_relative_to_the_working_folder(work: Path) -> None:
    assert error_of("validate", "--weights", work / "photos").startswith("error: photos: is a folder")
