"""``fmen upscale --engine ray`` on a real Ray of two processes. Skipped where Ray is not installed."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fmen.sources.networks import build_network
from fmen.upscaling import cluster
from fmen.upscaling.batch import BatchUpscaler
from fmen.upscaling.jobs import plan
from fmen.upscaling.manifest import Settings, pending
from fmen.upscaling.networks import Networks
from fmen.upscaling.storage import location
from fmen_core.pretrained import bundled

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'fmen[ray]'")

WEIGHTS = bundled()["fmen-s_x2"]
SETTINGS = Settings.of([WEIGHTS], "fp32", False, 95)


@pytest.fixture(scope="module")
def one_cluster() -> Iterator[None]:
    """Two processes for all tests of this file."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve small images and a file that is none."""
    (tmp_path / "in").mkdir()
    generator = np.random.default_rng(0)
    for number in range(12):
        image = generator.integers(0, 256, (16 + number, 20, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "in" / f"{number:02}.png"), image)
    (tmp_path / "in" / "bad.png").write_text("text")
    return tmp_path


def test_the_code_of_a_user_network_is_sent_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", list(sys.path))
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "FACTOR = 4\n"
        "class Mine(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x.repeat_interleave(FACTOR, 2).repeat_interleave(FACTOR, 3)\n"
    )
    network = build_network(f"{tmp_path / 'mine.py'}:Mine")
    cluster.send_code(ray, [network])
    content = ray.cloudpickle.dumps(network)
    monkeypatch.delitem(sys.modules, type(network).__module__)
    received = ray.cloudpickle.loads(content)
    assert received(torch.zeros(1, 3, 2, 2)).shape == (1, 3, 8, 8)


def networks_that_die(height: int, once: Path | None) -> Networks:
    """Networks whose process is killed at an image of this height, at every one or at the first one only."""

    class Deadly(Networks):
        def factor(self, h: int, w: int) -> None:
            if h == height and not (once and once.exists()):
                if once:
                    once.touch()
                os.kill(os.getpid(), signal.SIGKILL)

    return Deadly.load([WEIGHTS], precision="fp32", device="cpu")


def outcome(networks: Networks, tmp_path: Path, output: str) -> tuple[int, list[dict[str, str]]]:
    jobs, _ = plan([str(tmp_path / "in")], output)
    failed, file = cluster.run_on_ray(jobs, networks, SETTINGS, location(output), workers=2, say=lambda line: None)
    assert str(file) == f"{output}/fmen-upscale-failures.jsonl"
    lines = (tmp_path / "out" / "fmen-upscale-failures.jsonl").read_text().splitlines()
    return failed, [json.loads(line) for line in lines]


@pytest.mark.usefixtures("one_cluster")
def test_a_killed_process_loses_nothing_and_both_engines_share_results_and_manifest(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "GROUPS", (4, 1))
    networks = networks_that_die(21, once=folder / "killed")
    failed, failures = outcome(networks, folder, str(folder / "out"))
    assert (folder / "killed").exists()
    assert failed == 1
    assert failures[0]["source"] == str(folder / "in" / "bad.png")
    assert "bad.png is not a readable image" in failures[0]["error"]

    jobs, _ = plan([str(folder / "in")], str(folder / "out"))
    assert [job.name for job in pending(jobs, SETTINGS)] == [str(folder / "in" / "bad.png")]
    elsewhere, _ = plan([str(folder / "in")], str(folder / "local"))
    BatchUpscaler(Networks.load([WEIGHTS], precision="fp32", device="cpu"), SETTINGS).run(
        elsewhere, say=lambda line: None, complain=lambda line: None
    )
    local = {file.name: file.read_bytes() for file in (folder / "local").glob("*.png")}
    assert len(local) == 12
    assert {file.name: file.read_bytes() for file in (folder / "out").glob("[0-9]*.png")} == local
    assert len(pending(jobs, Settings.of([WEIGHTS], "fp32", True, 95))) == len(jobs)


@pytest.mark.usefixtures("one_cluster")
def test_an_error_of_a_network_is_reported_with_its_type_and_the_rest_is_done(folder: Path) -> None:
    class Failing(Networks):
        def factor(self, h: int, w: int) -> None:
            if h == 21:
                raise ModuleNotFoundError("No module named\n'parts'")

    networks = Failing.load([WEIGHTS], precision="fp32", device="cpu")
    failed, failures = outcome(networks, folder, str(folder / "out"))
    assert failed == 2
    assert failures[0]["error"] == "ModuleNotFoundError: No module named 'parts'"
    assert len(list((folder / "out").glob("[0-9]*.png"))) == 11


@pytest.mark.usefixtures("one_cluster")
def test_an_image_that_kills_every_process_is_reported_and_the_rest_is_done_on_a_remote_file_system(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "GROUPS", (7, 1))
    monkeypatch.setattr(cluster, "RETRIES", 0)
    output = f"local://{folder}/out"  # a scheme of fsspec, through which processes share a file system
    failed, failures = outcome(networks_that_die(21, once=None), folder, output)
    assert failed == 2
    assert [Path(failure["source"]).name for failure in failures] == ["05.png", "bad.png"]
    assert "05.png: its process died at every try" in failures[0]["error"]
    assert len(list((folder / "out").glob("[0-9]*.png"))) == 11
    jobs, _ = plan([str(folder / "in")], output)
    assert [Path(job.name).name for job in pending(jobs, SETTINGS)] == ["05.png", "bad.png"]
