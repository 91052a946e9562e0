"""Commands refuse, before they work, to write where they read or where there is a folder."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fmen.cli.main import app
from fmen_core import create_model, save
from fmen_data import imresize, read_image, write_image


@pytest.fixture
def folder(work: Path) -> Path:
    """The working folder with ``w.safetensors`` and ``runs/narrow/pruned.safetensors``, and with LR images."""
    torch.manual_seed(0)
    network = create_model("fmen", 4, n_feats=8, mid_feats=8, down_blocks=1, up_blocks=(1, 1))
    for file in ("w.safetensors", "runs/narrow/pruned.safetensors"):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        save(network, file)
    for name in ("one", "two"):
        write_image(f"lr/{name}.png", imresize(read_image(f"photos/{name}.png"), 1 / 4))
    return work


def contents(folder: Path) -> dict[Path, bytes]:
    """The files below a folder with their contents."""
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


IMAGES = ("validate", "--weights", "w.safetensors", "--data")
PRUNED = "runs/narrow/pruned.safetensors"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ((*IMAGES, "photos", "--save-images", "photos"), "photos: its images are read"),
        ((*IMAGES, "photos,lr", "--save-images", "lr"), "lr: its images are read"),
        ((*IMAGES, "photos", "--json", "photos/one.png"), "photos/one.png: end the name in .json"),
        (("report", "--weights", "w.safetensors", "--out", "w.safetensors"), "w.safetensors: end the name in .html"),
        (("bench", "--models", "fmen-s", "--json", "w.safetensors"), "w.safetensors: end the name in .json"),
        (("bench", "--models", "fmen-s", "--markdown", "w.safetensors"), "w.safetensors: end the name in .md"),
        (("reproduce", "--out", "r", "--page", "photos/one.png"), "photos/one.png: end the name in .md"),
        ((*IMAGES, "lr", "--data", "photos", "--save-images", "."), "lr: its images are read"),
        (("prune", PRUNED, "--channels", "6", "--out", "runs/narrow"), f"{PRUNED}: is read"),
        (("reparam", "w.safetensors", "./w.safetensors"), "w.safetensors: is read"),
        (("export", "w.safetensors", "--format", "safetensors", "--out", "w.safetensors"), "w.safetensors: is read"),
        (
            ("submit", "--weights", "w.safetensors", "--out", "w.safetensors"),
            "w.safetensors: end the name in .zip",
        ),
        (
            ("submit", "results", "--weights", "w.safetensors", "--data", "photos", "--out", "photos/one.png"),
            "photos/one.png: end the name in .zip",
        ),
        (
            ("data", "label", "--weights", "w.safetensors", "--data", "photos", "--out", "photos"),
            "photos: its images are read",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else None,
)
def test_inputs_are_not_overwritten(folder: Path, command: Sequence[str], message: str) -> None:
    before = contents(folder)
    result = CliRunner().invoke(app, list(command))
    assert result.exit_code == 2, result.output
    assert result.stderr.splitlines()[-1].startswith(f"error: {message}")
    assert contents(folder) == before


def test_labels_are_not_added_to_a_dataset(folder: Path) -> None:
    write_image("set/HR/three.png", read_image("photos/one.png"))
    before = contents(folder)
    result = CliRunner().invoke(app, ["data", "label", "--weights", "w.safetensors", "--data", "lr", "--out", "set"])
    assert (result.exit_code, contents(folder)) == (2, before)
    assert result.stderr == "error: set/HR: its images are no pseudo-labels; name another folder with --out\n"


def test_a_pruned_network_is_not_overwritten(folder: Path) -> None:
    command = ["prune", "w.safetensors", "--val-data", "photos", "--out", "runs/narrower"]
    assert CliRunner().invoke(app, [*command, "--channels", "6"]).exit_code == 0
    result = CliRunner().invoke(app, [*command, "--channels", "5"])
    assert result.exit_code == 2
    assert result.stderr == "error: runs/narrower: contains a pruned network; choose another --out\n"


@pytest.mark.parametrize("name", [".", "", "photos"])
@pytest.mark.parametrize(
    "command",
    [
        ("validate", "--weights", "w.safetensors", "--data", "photos", "--json"),
        ("bench", "--models", "fmen-s", "--json"),
        ("bench", "--models", "fmen-s", "--markdown"),
        ("reparam", "w.safetensors"),
        ("export", "w.safetensors", "--format", "pth", "--out"),
        ("report", "--weights", "w.safetensors", "--out"),
        ("reproduce", "figure5", "--out", "results", "--page"),
    ],
    ids=lambda command: f"{command[0]}{command[-1]}",
)
def test_a_folder_is_no_file_to_write(
    folder: Path, command: Sequence[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmen.validation.measure", None)  # the name is checked before any work
    result = CliRunner().invoke(app, [*command, name])
    assert result.exit_code == 2, result.output
    assert result.stderr == f"error: {name or '.'}: is a folder; name a file\n"


def test_the_table_of_a_benchmark_is_printed_before_it_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "b.json")

    monkeypatch.setattr("fmen.json_file.write_json", full)
    options = ["--runs", "1", "--lr-size", "16x16", "--device", "cpu", "--json", "b.json"]
    result = CliRunner().invoke(app, ["bench", "--models", "fmen-s", *options])
    assert result.exit_code == 2 and "fmen-s" in result.stdout
    assert result.stderr == "error: b.json: No space left on device; free some space or write elsewhere\n"
