"""``fmen prune``: from a trained network to a narrower one, fine-tuned, with its report."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fmen.cli.main import app
from fmen.pruning import typical_images
from fmen.training.logger import Logger
from fmen.training.recipe import Recipe
from fmen_core import create_model, load, prune, save
from fmen_data import open_dataset, parse_source, write_image
from fmen_eval import complexity

SIZES: dict[str, Any] = {"n_feats": 8, "mid_feats": 8, "down_blocks": 1, "up_blocks": (1, 1)}
FINE_TUNED = ("--data", "photos", "--val-data", "photos", "--recipe", "quick", "--steps", 3, "--set", "patch=8")
QUICK = ("--set", "batch=2", "--set", "warmup=0", "--set", "compile=false")

MINE = """
from torch import nn

class Mine(nn.Module):
    def __init__(self, scale=2, width=6):
        super().__init__()
        self.scale = scale
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.PReLU(width))
        self.tail = nn.Sequential(nn.Conv2d(width, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))

    def forward(self, x):
        return self.tail(self.body(x))
"""


def fmen(*arguments: object, status: int = 0) -> tuple[str, str]:
    """Run a command, check its exit status, and return what it wrote to standard output and standard error."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result.stdout, result.stderr


@pytest.fixture
def trained(work: Path) -> str:
    """Weights of a small FMEN x4 in its training form, in the working folder."""
    torch.manual_seed(0)
    save(create_model("fmen", 4, **SIZES), "trained.safetensors")
    return "trained.safetensors"


def networks(folder: str) -> dict[str, dict[str, Any]]:
    """The networks in the report of a run."""
    return {row["network"]: row for row in json.loads(Path(folder, "prune.json").read_text())["networks"]}


def test_a_network_is_pruned_fine_tuned_and_reported(trained: str) -> None:
    stdout, _ = fmen("prune", trained, "--channels", 6, *FINE_TUNED, *QUICK, "--out", "runs/narrow")
    rows = networks("runs/narrow")
    assert [line.split()[0] for line in stdout.splitlines()[-3:]] == list(rows) == ["before", "pruned", "fine-tuned"]
    for name, n_feats in (("before", 8), ("pruned", 6), ("fine-tuned", 6)):
        counted = complexity(create_model("fmen", 4, form="inference", **{**SIZES, "n_feats": n_feats}))
        assert (rows[name]["params"], rows[name]["macs"]) == (counted.params, counted.macs)
    narrow = load("runs/narrow/pruned.safetensors")
    assert (narrow.name, narrow.sizes["n_feats"]) == ("fmen", 6)
    network = load(trained)
    on_photos, on_synthetic = prune(network, typical_images("photos", network), n_feats=6), prune(network, n_feats=6)
    assert torch.equal(narrow.head.bias, on_photos.head.bias) and not torch.equal(
        narrow.head.bias, on_synthetic.head.bias
    )
    assert len({row["psnr"] for row in rows.values()}) == 3
    validated, _ = fmen("validate", "--weights", "runs/narrow/best.safetensors", "--data", "photos", "--json", "v.json")
    assert json.loads(Path("v.json").read_text())["mean"]["psnr"] == rows["fine-tuned"]["psnr"], validated


def test_an_interrupted_fine_tuning_says_how_to_continue(trained: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Logger, "tick", lambda self: os.kill(os.getpid(), signal.SIGTERM))
    options = ("--channels", 6, *FINE_TUNED, *QUICK, "--out", "runs/narrow")
    _, stderr = fmen("prune", trained, *options, status=128 + signal.SIGTERM)
    assert "stopped after step 1 of 3; continue: fmen train --resume --out runs/narrow" in stderr
    assert list(networks("runs/narrow")) == ["before", "pruned"]


def test_fine_tuning_starts_from_the_pruned_network(trained: str) -> None:
    still = ("--set", "learning_rate=1e-9", "--set", "ema=0")
    fmen("prune", trained, "--channels", 6, *FINE_TUNED, *QUICK, *still, "--out", "runs/narrow")
    rows = networks("runs/narrow")
    assert rows["fine-tuned"]["psnr"] == pytest.approx(rows["pruned"]["psnr"], abs=0.1)


def test_the_pruned_network_can_be_submitted(trained: str) -> None:
    fmen("prune", trained, "--ratio", 0.25, "--val-data", "photos", "--out", "runs/narrow")
    assert load("runs/narrow/pruned.safetensors").sizes == {**SIZES, "n_feats": 6, "mid_feats": 6}
    assert list(networks("runs/narrow")) == ["before", "pruned"] and not Path("runs/narrow/recipe.yaml").exists()
    fmen("submit", "--weights", "runs/narrow/pruned.safetensors", "--data", "photos", "--out", "submission.zip")
    assert Path("submission.zip").is_file()


def test_a_network_of_the_user_is_pruned_by_its_own_argument(work: Path) -> None:
    Path("mine.py").write_text(MINE)
    fmen(
        "train", "--model", "mine.py:Mine", "--scale", 2, *FINE_TUNED[:6], "--set", "steps=2", *FINE_TUNED[-2:], *QUICK
    )
    run = "runs/Mine_x2_quick/best.safetensors"
    options = ("--model", "mine.py:Mine", "--set", "model_args.width=4", "--out", "runs/narrow")
    fmen("prune", run, *options, *FINE_TUNED, *QUICK)
    rows = networks("runs/narrow")
    assert (rows["before"]["params"], rows["fine-tuned"]["params"]) == (6 * 28 + 6 + 12 * 55, 4 * 28 + 4 + 12 * 37)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ((), "no size is given; add --channels N, --ratio SHARE, or --set model_args.NAME=N"),
        (("--channels", 6, "--ratio", 0.5), "--channels and --ratio both set the width"),
        (("--channels", 8), "fmen already has n_feats = 8"),
        (("--channels", 9), "fmen cannot be pruned to these sizes: 9 channels where the network has 8"),
        (("--channels", 6, "--steps", 5), "fine-tuning needs images: add --data"),
        (("--channels", 6, "--data", "photos", "--set", "stepz=4"), "unknown key 'stepz'"),
        (("--channels", 6, "--data", "photos", "--steps", 2, "--set", "steps=4"), "--set steps=4: an option gives 2"),
        (("--set", "scale=2", "--data", "photos"), "--set scale: the pruned network has its own; leave it out"),
        (("--set", "batch=4", "--channels", "6"), "--set batch is for fine-tuning: add --data, or leave it out"),
        (("--set", "model_args.width=4"), "fmen has no size called 'width'"),
        (("--set", "model_args=4"), "--set model_args=4: expected a mapping"),
    ],
)
def test_a_wrong_option_ends_with_one_line(trained: str, options: tuple[object, ...], reason: str) -> None:
    _, stderr = fmen("prune", trained, *options, "--val-data", "photos", "--out", "runs/narrow", status=2)
    assert reason in stderr and len(stderr.splitlines()) <= 2
    assert not Path("runs").exists()


def test_settings_replace_the_defaults_of_options(trained: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmen.cli.prune.fine_tune", lambda recipe, run: chosen.append(recipe) or trained)
    chosen: list[Recipe] = []
    settings = ("device=cpu", "val_protocol=paper")
    options = [word for setting in settings for word in ("--set", setting)]
    fmen("prune", trained, "--channels", 6, *FINE_TUNED, *QUICK, *options, "--out", "runs/narrow")
    assert chosen[0].device == "cpu" and chosen[0].val_protocol == ("paper",)


def test_missing_images_end_with_one_line(trained: str) -> None:
    _, stderr = fmen("prune", trained, "--channels", 6, "--val-data", "none", "--out", "runs/narrow", status=2)
    assert "none does not exist" in stderr and len(stderr.splitlines()) == 1
    assert not Path("runs").exists()


def test_channels_are_chosen_on_the_middle_of_the_training_images_in_the_range_of_the_network(work: Path) -> None:
    dataset = open_dataset(parse_source("photos"), scale=2, split="train")
    for name, white in (("fmen", 255), ("imdn", 1)):
        images = typical_images("photos", create_model(name, 2))
        for index, image in enumerate(images):
            lr = dataset.read(index)[0]
            assert lr.shape[:2] == (24, 32) and image.shape == (3, 24, 24)
            assert torch.allclose(image * (255 / white), torch.from_numpy(lr[:, 4:28]).permute(2, 0, 1).float())


def test_channels_are_chosen_on_few_images_from_all_parts_of_the_training_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmen.pruning.MOST_IMAGES", 2)
    for number in range(5):
        write_image(tmp_path / f"{number}.png", np.full((140, 150, 3), 10 * number, np.uint8))
    images = typical_images(str(tmp_path), create_model("fmen", 2))
    assert images.shape == (2, 3, 64, 64) and images[:, 0, 0, 0].tolist() == [0, 20]


def test_a_run_is_not_overwritten(trained: str) -> None:
    Path("runs/narrow").mkdir(parents=True)
    Path("runs/narrow/recipe.yaml").write_text("")
    _, stderr = fmen("prune", trained, "--channels", 6, "--out", "runs/narrow", status=2)
    assert "contains a run" in stderr and not Path("runs/narrow/pruned.safetensors").exists()
