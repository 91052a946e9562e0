"""Small images, a team, and the package built from them."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import torch

import fmen_core
from fmen.submission.build import SubmissionReport, build_submission
from fmen_data import write_image

TEAM = """
team_id: 7
team_name: Ünïcode & Söhne
contact: lead@team.org
members: [{name: A, affiliation: B}]
title: FMEN-S "quoted" \\ back
description: "Costs $5: nothing to replace here."
training_data: DIV2K
extra_data: true
"""


OUTPUTS = ("stdout.txt", "stderr.txt")


def run_file(program: Sequence[str], folder: Path) -> None:
    """Run a Python file with its arguments in ``folder``, and write what it prints to files there."""
    torch.set_num_threads(1)
    os.chdir(folder)
    sys.stdout, sys.stderr = (Path(name).open("w") for name in OUTPUTS)  # noqa: SIM115  until the process ends
    sys.argv = list(program)
    runpy.run_path(program[0], run_name="__main__")


def run_forked(program: Sequence[str], *, folder: Path, **_: object) -> CompletedProcess[str]:
    """Do what ``run_fresh`` does in a fork of this process, which has PyTorch loaded."""
    process = multiprocessing.get_context("fork").Process(target=run_file, args=(program, folder))
    process.start()
    process.join()
    assert process.exitcode is not None
    return CompletedProcess(list(program), process.exitcode, *((folder / name).read_text() for name in OUTPUTS))


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Examine packages in forks instead of new interpreters: loading PyTorch takes a second each time."""
    monkeypatch.setattr("fmen.submission.check.package.run_fresh", run_forked)
    monkeypatch.setattr("fmen.submission.sandbox.run_fresh", run_forked)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small images in a plain folder."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, size in (("0001", (61, 74)), ("second", (64, 48))):
        coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
        rows, columns = (np.arange(n) * 8 // n for n in size)
        write_image(folder / f"{name}.png", coarse[rows][:, columns])
    return folder


@pytest.fixture(scope="session")
def team(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("team") / "team.yaml"
    path.write_text(TEAM, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def report(weights: Path, photos: Path, team: Path, tmp_path_factory: pytest.TempPathFactory) -> SubmissionReport:
    out = tmp_path_factory.mktemp("out") / "package.zip"
    return build_submission(fmen_core.load(weights), photos, team, out, device="cpu", progress=False)


@pytest.fixture(scope="session")
def unpacked(report: SubmissionReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the unpacked package."""
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(report.path) as archive:
        archive.extractall(folder)
    return folder
