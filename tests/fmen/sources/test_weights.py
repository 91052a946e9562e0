"""Which weights a command uses where none are named."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fmen.cli.main import app
from fmen.sources.weights import choose_weights, is_bundled, weights_title
from fmen_core import WeightsError, create_model, save
from fmen_core.pretrained import bundled, published
from fmen_data import write_image

COMMANDS = {
    "validate": ("--data", "photos"),
    "upscale": ("photos/one.png", "-o", "sr.png"),
    "report": ("--data", "photos"),
    "export": ("--format", "safetensors", "--out", "out.safetensors"),
    "submit results": ("--data", "photos"),
}
"""The commands that use weights, each with arguments that name none. ``submit`` chooses them as its subcommand does."""


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without runs, with a small HR image under ``photos/``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FMEN_CACHE", str(tmp_path / "cache"))
    write_image(tmp_path / "photos" / "one.png", np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    return tmp_path


def add_run(name: str, scale: int, seconds: float) -> Path:
    """Write the weights of a run at a time, as a run of this scale does."""
    file = Path("runs", name, "best.safetensors")
    file.parent.mkdir(parents=True)
    save(create_model("fmen-s", scale), file)
    os.utime(file, (seconds, seconds))
    return file


def fmen(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == status, result.output
    return result.output


def test_the_newest_run_precedes_the_bundled_weights_whatever_its_scale() -> None:
    assert choose_weights(None) == bundled()["fmen-s_x4"]
    add_run("older", 4, 100)
    newer = add_run("newer", 2, 200)
    assert choose_weights(None) == newer


def test_for_a_scale_the_newest_run_of_that_scale_precedes_the_bundled_weights_of_it() -> None:
    run = add_run("older", 3, 100)
    add_run("newer", 2, 200)
    assert choose_weights(None, 3) == run
    assert choose_weights(None, 4) == bundled()["fmen-s_x4"]


def test_a_run_of_another_scale_is_used_where_no_weights_of_the_scale_exist(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmen_core.pretrained.BUNDLED", work)
    with pytest.raises(
        WeightsError, match="no trained weights for fmen-s x3: bundled are none, and there is no run under"
    ):
        choose_weights(None, 3)
    run = add_run("only", 2, 100)
    assert choose_weights(None, 3) == run


def test_a_network_without_bundled_weights_needs_a_run() -> None:
    with pytest.raises(WeightsError, match=r"no trained weights for mine\.py:Mine x4"):
        choose_weights(None, model="mine.py:Mine")


def test_bundled_and_downloaded_weights_are_called_by_their_name_and_others_by_their_path() -> None:
    assert weights_title(bundled()["fmen-s_x2"]) == "fmen-s_x2 (bundled)"
    copy = Path("fmen-s_x2.safetensors")
    assert weights_title(copy) == str(copy) and not is_bundled(copy)
    assert weights_title(published("imdn-x4").file) == "imdn-x4 (downloaded)"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_without_a_run_uses_the_bundled_weights_and_says_so(command: str) -> None:
    output = fmen(*command.split(), *COMMANDS[command])
    assert "weights fmen-s_x4 (bundled)" in output
    warns = "note: these are the bundled weights, not yours; train with 'fmen train', or name yours with --weights"
    assert (warns in output) == command.startswith("submit")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_uses_the_newest_run_and_says_so(command: str) -> None:
    run = add_run("r", 4, 100)
    (run.parent / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0}\n')  # for the report
    output = fmen(*command.split(), *COMMANDS[command])
    assert "weights runs/r/best.safetensors" in output and "bundled" not in output


def test_reparam_uses_the_newest_run_and_finds_nothing_to_do_on_the_bundled_weights() -> None:
    assert "fmen-s_x4 (bundled): is fmen-s in its inference form" in fmen("reparam", "out.safetensors", status=2)
    add_run("r", 4, 100)
    assert fmen("reparam", "out.safetensors").splitlines() == [
        "weights runs/r/best.safetensors",
        "out.safetensors: fmen-s x4, inference form",
    ]


def test_upscaling_to_a_width_uses_the_run_for_its_scale_and_the_bundled_weights_for_the_others() -> None:
    add_run("r", 3, 100)
    output = fmen("upscale", "photos/one.png", "-o", "sr.png", "--width", "100")
    assert [line.split(":")[0] for line in output.splitlines() if line.startswith("weights")] == [
        "weights fmen-s_x2 (bundled)",
        "weights runs/r/best.safetensors",
        "weights fmen-s_x4 (bundled)",
    ]
    assert "each image uses the smallest scale that reaches its output size" in output


def test_a_package_of_bundled_weights_that_are_named_says_that_they_are_bundled() -> None:
    output = fmen("submit", "results", "--data", "photos", "--weights", "fmen-s_x4")
    assert "note: these are the bundled weights, not yours" in output
