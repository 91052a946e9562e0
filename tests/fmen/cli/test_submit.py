"""``fmen submit``, its subcommands, and the older options that do the same."""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path
from unittest.mock import create_autospec

import numpy as np
import pytest
from typer.testing import CliRunner

from fmen.cli.main import app
from fmen.sources.networks import build_network, user_module
from fmen.submission.build import SubmissionReport, build_submission
from fmen.submission.check.findings import Finding
from fmen.submission.check.run import check_submission
from fmen_core import save
from fmen_data import imresize, write_image


@pytest.fixture
def work(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an HR image under ``photos/`` and weights ``w.safetensors``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FMEN_DEBUG", raising=False)
    (tmp_path / "w.safetensors").symlink_to(weights)
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    write_image(tmp_path / "photos" / "one.png", imresize(coarse, 8))
    return tmp_path


def submit(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(app, ["submit", *arguments])
    assert result.exit_code == status, result.output
    return result.output


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize(("meets", "status"), [(True, 0), (None, 0), (False, 1)])
def test_submit_exits_with_1_below_the_threshold(
    meets: bool | None, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = SubmissionReport(
        Path("p.zip"), "team07_fmen_s", {"psnr": 28.5}, 28.5, meets, ("first note", "second note")
    )
    monkeypatch.setattr(
        "fmen.submission.build.build_submission", create_autospec(build_submission, return_value=report)
    )
    lines = submit("--weights", "w.safetensors", "--data", "photos", status=status).splitlines()
    assert lines == [
        "weights w.safetensors, data photos",
        *report.notes,
        "p.zip: PSNR 28.5000 dB here, 28.5000 dB from the unpacked package",
    ]


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize(
    ("severity", "status", "verdict"),
    [
        ("warning", 0, "ready: would run in the organisers' repository (1 warning; PSNR is not measured without"),
        ("fatal", 1, "not ready: 1 thing is wrong"),
    ],
)
def test_check_ends_with_a_verdict_and_exits_with_1_if_a_finding_is_fatal(
    severity: str, status: int, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile("any.zip", "w") as archive:
        archive.writestr("models/team07_mine.py", "")
    finding = Finding(severity, "readme.txt", "is missing")  # type: ignore[arg-type]
    asked = create_autospec(check_submission, return_value=[finding])
    monkeypatch.setattr("fmen.submission.check.run.check_submission", asked)
    arguments = ["check", "any.zip", "--data", "sample", "--layout", "ntire2026", "--split", "test", "--device", "cpu"]
    lines = submit(*arguments, status=status).splitlines()
    assert lines[0] == f"{severity}: readme.txt: is missing"
    assert len(lines) == 2 and lines[1].startswith(verdict)
    options = {"layout": "ntire2026", "split": "test", "run_code": False, "cuda": False}
    asked.assert_called_once_with(Path("any.zip"), "sample", **options)


def test_results_writes_the_archive(work: Path) -> None:
    output = submit("results", "--weights", "w.safetensors", "--data", "photos", "--split", "valid")
    assert "results.zip: 1 images of photos" in output
    assert (work / "results.zip").is_file()
    submit("results", "--weights", "w.safetensors", "--data", "photos", "--out", "other.zip")
    assert (work / "other.zip").is_file()


MINE = """
import torch
from torch import nn
from fmen_core.blocks.reparameterizable import ECB

class Mine(nn.Module):
    def __init__(self, scale=4, width=8):
        super().__init__()
        self.body, self.scale = ECB(3, width), scale
        self.tail = nn.Sequential(nn.PReLU(width), nn.Conv2d(width, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))

    def forward(self, x):
        return self.tail(self.body(x)) + nn.functional.interpolate(x, scale_factor=self.scale)
"""


@pytest.mark.parametrize("layout", ["ntire2022", "ntire2026"])
def test_a_network_of_the_users_goes_from_its_file_into_a_package_that_is_ready(
    layout: str, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if layout == "ntire2026":
        pytest.importorskip("fvcore", reason="fvcore is missing: pip install 'fmen[ntire2026]'")
    monkeypatch.setattr("sys.path", list(sys.path))
    (work / "mine.py").write_text(MINE)
    network = build_network("mine.py:Mine", 4, {"width": 6})
    record = user_module(network)
    assert record is not None
    save(network, "mine.safetensors", metadata=record.metadata())
    common = ["--data", "photos", "--layout", layout, "--device", "cpu"]
    output = submit("--model", "mine.py:Mine", "--weights", "mine.safetensors", *common)
    stem = "team00_Mine" if layout == "ntire2026" else "team00_mine"
    assert f"models/{stem}.py: made of mine.py, reparameterizable.py; it imports torch\n" in output
    with zipfile.ZipFile("submission.zip") as archive:
        branch = archive.read("select_model.txt").decode()
    assert f"from models.{stem} import Mine\n" in branch and "model = Mine(width=6)\n" in branch
    lines = submit("check", "submission.zip", "--run-code", *common).splitlines()
    assert lines[-1].removesuffix(" (1 warning)") == "ready: would run in the organisers' repository"  # no bubblewrap
    assert any(f"models/{stem}.py: 2,814 parameters" in line for line in lines)
    if layout == "ntire2026":
        return
    output = submit("results", "--model", "mine.py:Mine", "--weights", "mine.safetensors", *common)
    assert "results.zip: 1 images of photos" in output
    assert "This is the example team: fill in submission/team.yaml and name it with --team.\n" in output


def test_weights_of_the_users_network_without_its_file_are_refused(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", list(sys.path))
    (work / "mine.py").write_text(MINE)
    network = build_network("mine.py:Mine")
    record = user_module(network)
    assert record is not None
    save(network, "mine.safetensors", metadata=record.metadata())
    output = submit("--weights", "mine.safetensors", "--data", "photos", status=2)
    assert "name that file with --model mine.py:Mine" in output


def test_an_option_before_a_subcommand_is_refused_instead_of_ignored() -> None:
    assert submit("--data", "photos", "check", "any.zip", status=2) == (
        "error: give options after the subcommand: fmen submit check [OPTIONS]\n"
    )


def test_help_of_submit_names_the_subcommands() -> None:
    text = submit("--help")
    assert re.search(r"^Commands:\n  check .*\n(.*\n)?  results ", text, re.MULTILINE)
    assert "--team" in text
