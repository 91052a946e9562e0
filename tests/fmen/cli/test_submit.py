"""``fmen submit``, its subcommands, and the older options that do the same."""

from __future__ import annotations

import re
from pathlib import Path
from unittest.mock import create_autospec

import numpy as np
import pytest
from typer.testing import CliRunner

from fmen.cli.main import app
from fmen.submission.build import SubmissionReport, build_submission
from fmen.submission.check.findings import Finding
from fmen.submission.check.run import check_submission
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


@pytest.mark.parametrize("command", [["check", "any.zip"], ["--check", "any.zip"]])
@pytest.mark.parametrize(("severity", "status"), [("warning", 0), ("fatal", 1)])
def test_check_exits_with_1_if_a_finding_is_fatal(
    command: list[str], severity: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = Finding(severity, "readme.txt", "is missing")  # type: ignore[arg-type]
    asked = create_autospec(check_submission, return_value=[finding])
    monkeypatch.setattr("fmen.submission.check.run.check_submission", asked)
    arguments = [*command, "--data", "sample", "--layout", "ntire2026", "--split", "test", "--device", "cpu"]
    assert submit(*arguments, status=status) == f"{severity}: readme.txt: is missing\n"
    asked.assert_called_once_with(Path("any.zip"), "sample", layout="ntire2026", split="test", cuda=False)


@pytest.mark.parametrize("command", ["results", "--results"])
def test_results_writes_the_archive(command: str, work: Path) -> None:
    output = submit(command, "--weights", "w.safetensors", "--data", "photos", "--split", "valid")
    assert "results.zip: 1 images of photos" in output
    assert (work / "results.zip").is_file()
    submit(command, "--weights", "w.safetensors", "--data", "photos", "--out", "other.zip")
    assert (work / "other.zip").is_file()


def test_an_option_before_a_subcommand_is_refused_instead_of_ignored() -> None:
    assert submit("--data", "photos", "check", "any.zip", status=2) == (
        "error: give options after the subcommand: fmen submit check [OPTIONS]\n"
    )


def test_help_of_submit_names_the_subcommands_and_hides_the_older_options() -> None:
    text = submit("--help")
    assert re.search(r"^Commands:\n  check .*\n(.*\n)?  results ", text, re.MULTILINE)
    assert "--check" not in text and "--results" not in text and "--team" in text
