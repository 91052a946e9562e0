"""``--model FILE.py:CLASS`` with the weights of a run, in every command that takes weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fmen.benchmark.models import choose_models
from fmen.cli.main import app
from fmen.sources.networks import build_network, load_network, model_of, save_network, user_module
from fmen_core import Upscaler, create_model, load, read_metadata, save
from fmen_core.blocks.reparameterizable import RRRB, Reparameterizable
from fmen_data import imresize, open_dataset, read_image, write_image

MINE = """
from torch import nn
import torch.nn.functional as F
from fmen_core.blocks.reparameterizable import RRRB

class Mine(nn.Module):
    def __init__(self, scale=4, width=4):
        super().__init__()
        self.scale = scale
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), RRRB(width))
        self.tail = nn.Conv2d(width, 3 * scale**2, 3, padding=1)

    def forward(self, x):
        return F.pixel_shuffle(self.tail(self.body(x)), self.scale) + F.interpolate(x, scale_factor=self.scale)
"""

MODEL = ("--model", "mine.py:Mine")


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with ``mine.py``, its weights ``w.safetensors``, and two images in each of two folders."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    Path("mine.py").write_text(MINE)
    torch.manual_seed(0)
    save_network(build_network("mine.py:Mine", 4, {"width": 5}), Path("w.safetensors"), recipe="quick")
    rng = np.random.default_rng(0)
    for folder in ("one", "two"):
        for name in ("a", "b"):
            write_image(Path(folder, f"{name}.png"), imresize(rng.integers(0, 256, (6, 8, 3), np.uint8), 8))


def fmen(*arguments: str, status: int = 0) -> str:
    """Run a command; returns what it printed, on both streams."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == status, (result.output, result.exception)
    return result.output


COMMANDS = {
    "validate": ("validate", "--weights", "w.safetensors", "--data", "one"),
    "upscale": ("upscale", "one/a.png", "-o", "sr.png", "--weights", "w.safetensors"),
    "export": ("export", "w.safetensors", "--format", "torchscript", "--out", "mine.ts"),
    "report": ("report", "--weights", "w.safetensors", "--data", "one", "--out", "r.html"),
    "label": ("data", "label", "--weights", "w.safetensors", "--data", "one", "--out", "labelled", "--factor", "1"),
    "reparam": ("reparam", "w.safetensors", "inference.safetensors"),
    "bench": ("bench", "--models", "", "--weights", "w.safetensors", "--lr-size", "16x16", "--runs", "1"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_refuses_weights_of_a_user_network_until_its_file_is_named(command: str) -> None:
    assert fmen(*COMMANDS[command], status=2).splitlines()[-1] == (
        "error: w.safetensors: these are weights of Mine in mine.py; name that file with --model mine.py:Mine"
    )
    output = fmen(*COMMANDS[command], *MODEL)
    assert "Mine" in output or command in ("report", "label")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_notes_another_version_of_the_file(command: str) -> None:
    Path("mine.py").write_text(MINE + "\n# changed\n")
    note = "note: w.safetensors: they were trained with another version of mine.py:Mine; all tensors fit mine.py:Mine\n"
    assert note in fmen(*COMMANDS[command], *MODEL)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_refuses_weights_that_do_not_fit_the_file(command: str) -> None:
    Path("mine.py").write_text(MINE.replace("self.tail", "self.last"))
    line = fmen(*COMMANDS[command], *MODEL, status=2).splitlines()[-1]
    assert line.startswith("error: w.safetensors: does not fit mine.py:Mine: last.weight is missing")
    assert line.endswith("; they were trained with another version of mine.py:Mine")


def test_labels_are_the_mean_of_a_user_network_and_of_a_known_one() -> None:
    save(create_model("span", n_feats=8), "span.safetensors")
    fmen(*COMMANDS["label"], "--weights", "span.safetensors", "--device", "cpu", *MODEL)
    lr, hr = open_dataset("labelled", scale=4).read(0)
    networks = [load_network("w.safetensors", "mine.py:Mine"), load("span.safetensors")]
    one, other = (Upscaler(network, device="cpu")(lr).astype(int) for network in networks)
    assert np.array_equal(hr, (one + other + 1) // 2) and not np.array_equal(one, other)


def test_the_inference_form_of_a_user_network_serves_as_its_weights() -> None:
    fmen(*COMMANDS["reparam"], *MODEL)
    metadata = read_metadata("inference.safetensors")
    assert (metadata["form"], metadata["recipe"], metadata["module_class"]) == ("inference", "quick", "Mine")
    assert not any(
        isinstance(module, Reparameterizable)
        for module in load_network("inference.safetensors", "mine.py:Mine").modules()
    )
    fmen(*COMMANDS["upscale"], *MODEL)
    fmen("upscale", "one/a.png", "-o", "again.png", "--weights", "inference.safetensors", *MODEL)
    assert np.array_equal(read_image(Path("sr.png")), read_image(Path("again.png")))
    assert "nothing to re-parameterize" in fmen("reparam", "inference.safetensors", "x.safetensors", *MODEL, status=2)


def test_exported_weights_of_a_user_network_load_again() -> None:
    network, x = load_network("w.safetensors", "mine.py:Mine"), torch.rand(1, 3, 9, 7)
    fmen("export", "w.safetensors", "--format", "safetensors", "--out", "out.safetensors", *MODEL)
    torch.testing.assert_close(load_network("out.safetensors", "mine.py:Mine")(x), network(x))
    fmen("export", "w.safetensors", "--format", "pth", "--out", "out.pth", *MODEL)
    Path("mine.py").write_text(MINE.replace("width=4", "width=5"))
    torch.testing.assert_close(load_network("out.pth", "mine.py:Mine")(x), network(x))
    challenge = ("export", "w.safetensors", "--format", "pth-challenge", "--out", "out", *MODEL)
    assert "pth-challenge is for FMEN" in fmen(*challenge, status=2)


def test_validate_measures_several_datasets_in_one_table() -> None:
    several = ("validate", "--weights", "w.safetensors", *MODEL, "--data", "one", "--data", "two")
    output = fmen(*several, "--json", "r.json", "--save-images", "sr")
    one = fmen("validate", "--weights", "w.safetensors", *MODEL, "--data", "one", "--json", "one.json")
    first, second = json.loads(Path("r.json").read_text())
    alone = json.loads(Path("one.json").read_text())
    assert [first["dataset"], second["dataset"]] == ["one", "two"]
    assert first["mean"] == alone["mean"] and first["mean"] != second["mean"]
    assert list(alone) == ["model", "weights", "protocol", "scale", "mean", "images"]
    lines = output.splitlines()
    assert lines[3].split() == ["dataset", "images", "PSNR", "dB", "SSIM", "seconds"]
    assert [line.split()[:3] for line in lines[4:6]] == [
        [entry["dataset"], "2", f"{entry['mean']['psnr']:.4f}"] for entry in (first, second)
    ]
    assert f"one: mean PSNR {first['mean']['psnr']:.2f} dB (ntire)" in lines
    assert one.splitlines()[-1].startswith("mean PSNR")
    assert {path.name for path in Path("sr").iterdir()} == {"one", "two"} and Path("sr/two/b.png").is_file()


def test_validate_exits_with_1_if_one_of_several_datasets_is_below_the_threshold() -> None:
    several = ("validate", "--weights", "w.safetensors", *MODEL, "--data", "one", "--data", "two", "--json", "r.json")
    fmen(*several)
    lower, higher = sorted(entry["mean"]["psnr"] for entry in json.loads(Path("r.json").read_text()))
    assert lower < higher
    fmen(*several, "--threshold", repr(lower))
    output = fmen(*several, "--threshold", repr((lower + higher) / 2), status=1)
    assert "is below the threshold" in output and "reaches the threshold" in output


def test_two_datasets_of_one_name_are_refused() -> None:
    arguments = ("validate", "--weights", "w.safetensors", *MODEL, "--data", "one", "--data", "one")
    assert "error: --data: the datasets have the names one, one; rename a folder" in fmen(*arguments, status=2)


def test_upscale_makes_an_image_again_after_a_change_of_the_file() -> None:
    fmen("upscale", "one", "-o", "sr", "--weights", "w.safetensors", *MODEL)
    assert "2 of 2 exist already" in fmen("upscale", "one", "-o", "sr", "--weights", "w.safetensors", *MODEL)
    Path("mine.py").write_text(MINE.replace("return F", "return 0.5 * F"))
    assert "exist already" not in fmen("upscale", "one", "-o", "sr", "--weights", "w.safetensors", *MODEL)


def test_upscale_with_a_user_network_takes_the_weights_of_the_newest_run() -> None:
    line = fmen("upscale", "one/a.png", "-o", "sr.png", *MODEL, status=2).splitlines()[-1]
    assert line.startswith("error: no trained weights for mine.py:Mine x4")
    Path("runs/mine").mkdir(parents=True)
    Path("w.safetensors").rename("runs/mine/best.safetensors")
    assert "weights runs/mine/best.safetensors: Mine x4" in fmen("upscale", "one/a.png", "-o", "sr.png", *MODEL)


def test_a_report_of_a_run_leaves_out_the_images_of_a_user_network_until_its_file_is_named() -> None:
    Path("runs/mine").mkdir(parents=True)
    Path("w.safetensors").rename("runs/mine/best.safetensors")
    Path("runs/mine/metrics.jsonl").write_text('{"step": 1, "loss": 3.0}\n')
    report = ("report", "--run", "runs/mine", "--out", "r.html")
    note = "note: images are left out; name the network of the run with --model mine.py:Mine\n"
    assert note in fmen(*report) and Path("r.html").is_file()
    assert "error: runs/mine/best.safetensors: these are weights of Mine" in fmen(*report, "--data", "one", status=2)
    assert "images: 2 of one" in fmen(*report, "--data", "one", *MODEL)


def test_a_named_network_must_be_that_of_the_weights() -> None:
    save(create_model("span", n_feats=8), "span.safetensors")
    arguments = ("validate", "--weights", "span.safetensors", "--data", "one", "--model")
    assert "span x4, inference form" in fmen(*arguments, "span")
    line = "error: span.safetensors: these are weights of span, not of fmen-s; check --model"
    assert fmen(*arguments, "fmen-s", status=2).splitlines()[-1] == line


def test_bench_pairs_weights_and_networks_of_the_user() -> None:
    Path("mine.py").write_text(MINE + "\nclass Other(Mine):\n    pass\n")
    save_network(build_network("mine.py:Other"), Path("o.safetensors"))
    torch.save(build_network("mine.py:Mine").state_dict(), "bare.pth")
    save(create_model("span", n_feats=8), "span.safetensors")
    own = ["mine.py:Mine", "mine.py:Other"]
    assert [model_of(Path(name), own) for name in ("w.safetensors", "o.safetensors")] == own
    assert model_of(Path("bare.pth"), own) is None and model_of(Path("bare.pth"), own[:1]) == own[0]
    assert model_of(Path("span.safetensors"), own[:1]) is None
    models = choose_models([], [Path("o.safetensors"), Path("span.safetensors")], own=own)
    assert [(model.name, model.weights is not None, model.custom) for model in models] == [
        ("Other", True, True),
        ("span", True, False),
        ("Mine", False, True),
    ]
    assert not any(isinstance(module, RRRB) for model in models for module in model.network.modules())
    assert str(user_module(models[0].network)) == "mine.py:Other"
