"""Small images, a team, and the package built from them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

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
    return build_submission(weights, photos, team, out, device="cpu", progress=False)


@pytest.fixture(scope="session")
def unpacked(report: SubmissionReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the unpacked package."""
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(report.path) as archive:
        archive.extractall(folder)
    return folder
