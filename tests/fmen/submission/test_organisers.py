"""A package runs in the organisers' own repositories and gets its declared PSNR there.

``FMEN_NTIRE2022`` and ``FMEN_NTIRE2026`` name clones of the repositories to try it in, with or without a working tree::

    git clone --bare https://github.com/Amazingren/NTIRE2026_ESR && FMEN_NTIRE2026=NTIRE2026_ESR.git pytest ...
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fmen.cli.submit import origin_of
from fmen.sources.networks import build_network
from fmen.submission.build import SubmissionReport, build_submission
from fmen.submission.images import open_images, write_validation_images
from fmen.submission.rules import LAYOUTS
from fmen_data import imresize, write_image

NETWORK = """
from torch import nn
from fmen_core.blocks.reparameterizable import ECB

class Mine(nn.Module):
    def __init__(self, scale=4, width=8):
        super().__init__()
        self.head, self.body, self.scale = nn.Conv2d(3, width, 3, padding=1), ECB(width, width, identity=True), scale
        self.tail = nn.Sequential(nn.Conv2d(width, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))

    def forward(self, x):
        return self.tail(self.body(self.head(x))) + nn.functional.interpolate(x, scale_factor=self.scale)
"""

ON_THE_CPU = """
import argparse, os, sys, time, types
import torch

class Event:
    def __init__(self, enable_timing):
        self.time = 0.0
    def record(self):
        self.time = time.perf_counter()
    def elapsed_time(self, end):
        return 1000 * (end.time - self.time)

torch.cuda.Event = Event
for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
    setattr(torch.cuda, name, lambda *_: None)
for name in ("current_device", "max_memory_allocated"):
    setattr(torch.cuda, name, lambda *_: 0)
sys.modules["torchvision"] = types.ModuleType("torchvision")
sys.modules["torchvision.utils"] = types.ModuleType("torchvision.utils")
sys.modules["torchvision.utils"].make_grid = None  # imported there for pictures that are not made
sys.path.insert(0, os.getcwd())
import test_demo

listed = test_demo.select_dataset
test_demo.select_dataset = lambda folder, mode: [pair for pair in listed(folder, mode) if os.path.isfile(pair[1])]
arguments = argparse.Namespace(data_dir="data", save_dir="sr", model_id=7, include_test=False, ssim=False)
test_demo.main(arguments)
"""


@pytest.fixture(params=["ntire2022", "ntire2026"])
def layout(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if f"FMEN_{name.upper()}" not in os.environ:
        pytest.skip(f"FMEN_{name.upper()} names no clone of {LAYOUTS[name].repository}")
    return name


def package_of_a_users_network(folder: Path, team: Path, layout: str) -> SubmissionReport:
    """Build the package on one image with the name of a DIV2K image, and write that image in the challenge's layout."""
    (folder / "mine.py").write_text(NETWORK)
    network = build_network(str(folder / "mine.py:Mine"), 4, {"width": 6})
    write_image(folder / "photos/0801.png", imresize(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8), 8))
    images = open_images(folder / "photos", LAYOUTS[layout])
    list(write_validation_images(images, folder / "repository/data", LAYOUTS[layout]))
    out, origin = folder / "p.zip", origin_of(network)
    return build_submission(
        network, folder / "photos", team, out, origin=origin, layout=layout, device="cpu", progress=False
    )


def test_package_gets_its_psnr_in_the_organisers_repository(
    layout: str, team: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", list(sys.path))
    repository = tmp_path / "repository"
    repository.mkdir()
    clone = os.environ[f"FMEN_{layout.upper()}"]
    archive = subprocess.run(
        ["git", "-C", clone, "archive", "HEAD", "test_demo.py", "utils"], capture_output=True, check=True
    )
    subprocess.run(["tar", "-x", "-C", str(repository)], input=archive.stdout, check=True)
    report = package_of_a_users_network(tmp_path, team, layout)
    with zipfile.ZipFile(report.path) as package:
        names = [name for name in package.namelist() if name.startswith(("models/", "model_zoo/"))]
        package.extractall(repository, names)
        branch = package.read("select_model.txt").decode()
    demo = (repository / "test_demo.py").read_text()
    taken = re.sub(r"model_id == 0*7\b", "model_id == -7", demo)  # the number of the test's team
    (repository / "test_demo.py").write_text(
        taken.replace("    else:\n        raise Not", f"{branch}    else:\n        raise Not")
    )
    (repository / "on_the_cpu.py").write_text(ON_THE_CPU)
    run = subprocess.run([sys.executable, "-I", "on_the_cpu.py"], cwd=repository, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    results = next(iter(json.loads((repository / "results.json").read_text()).values()))
    assert results["valid_ave_psnr"] == pytest.approx(report.psnr, abs=1e-6)
    assert results["flops"] == pytest.approx(report.metrics["flops"] / 1e9)
    assert results["num_parameters"] == report.metrics["params"] / 1e6
    print(f"{layout}: the organisers' test_demo.py prints:", *run.stderr.splitlines(), sep="\n")
