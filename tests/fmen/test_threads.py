"""The number of threads: the cores that a container allows, ``--threads`` of every command, and what is timed."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import torch
from typer.testing import CliRunner

from fmen import doctor, threads
from fmen.cli.main import app
from fmen.threads import available_cores, seconds_by_threads, use_threads


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before, cv2_before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
    cv2.setNumThreads(cv2_before)


def mounted(folder: Path, membership: str, **files: str) -> dict[str, Path]:
    """Write ``/proc/self/cgroup`` and the files of control groups; return the arguments of ``available_cores``."""
    (folder / "proc" / "self").mkdir(parents=True)
    (folder / "proc" / "self" / "cgroup").write_text(membership)
    for name, text in files.items():
        path = folder / "cgroup" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(path.name.replace("_", ".", 1)).write_text(text)
    return {"proc": folder / "proc", "cgroups": folder / "cgroup"}


def affinity(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)


def test_a_container_with_two_of_64_cores_gets_two_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    affinity(64, monkeypatch)
    groups = mounted(tmp_path, "0::/job", job__cpu_max="200000 100000\n", cpu_max="max 100000\n")
    assert available_cores(**groups) == 2


def test_the_quota_of_an_outer_group_holds_for_the_inner_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    affinity(64, monkeypatch)
    groups = mounted(tmp_path, "0::/a/b", a__cpu_max="300000 100000", a__b__cpu_max="800000 100000")
    assert available_cores(**groups) == 3


def test_version_1_has_quota_and_period_in_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    affinity(64, monkeypatch)
    files = {"cpu__x__cpu_cfs_quota_us": "400000\n", "cpu__x__cpu_cfs_period_us": "100000\n"}
    assert available_cores(**mounted(tmp_path / "one", "4:cpu,cpuacct:/x\n0::/", **files)) == 4
    files["cpu__x__cpu_cfs_quota_us"] = "-1\n"
    assert available_cores(**mounted(tmp_path / "two", "4:cpu,cpuacct:/x\n0::/", **files)) == 64


def test_a_quota_below_one_core_gives_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    affinity(64, monkeypatch)
    assert available_cores(**mounted(tmp_path, "0::/", cpu_max="50000 100000")) == 1


def test_without_a_quota_the_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    affinity(3, monkeypatch)
    assert available_cores(proc=tmp_path, cgroups=tmp_path) == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # as on Windows and macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert available_cores(proc=tmp_path, cgroups=tmp_path) == 5


def test_the_default_is_at_most_one_thread_per_available_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "available_cores", lambda: 1)
    use_threads(None)
    assert (torch.get_num_threads(), cv2.getNumThreads()) == (1, 1)
    use_threads(3)
    assert (torch.get_num_threads(), cv2.getNumThreads()) == (3, 3)
    monkeypatch.setattr(threads, "available_cores", lambda: 64)
    use_threads(None)
    assert torch.get_num_threads() == 3


COMMANDS = (
    "train --data sample",
    "validate --data sample",
    "upscale photo.png --output out.png",
    "bench --models fmen-s",
    "report",
    "export --format onnx --out x.onnx",
    "data label --weights fmen-s_x4 --data photos --out labels",
    "submit --team none.yaml",
    "submit check package.zip",
    "submit results",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_computes_has_threads(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found: list[int | None] = []

    class Reached(Exception):
        pass

    def use(count: int | None) -> None:
        found.append(count)
        raise Reached

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(threads, "use_threads", use)
    for option, expected in (("", None), (" --threads 3", 3)):
        result = CliRunner().invoke(app, shlex.split(command + option))
        assert isinstance(result.exception, Reached), result.output
        assert found.pop() == expected


def test_a_step_is_timed_with_each_number_of_threads_in_turns() -> None:
    now, order = [0.0], list[int]()

    def step() -> None:
        order.append(torch.get_num_threads())
        now[0] += {1: 0.1, 2: 0.3}[torch.get_num_threads()] + (2 if len(order) < 3 else 0)  # the first ones are slow

    seconds = seconds_by_threads(step, (2, 1), clock=lambda: now[0])
    assert seconds == {2: pytest.approx(0.3), 1: pytest.approx(0.1)}
    assert order[:4] == [2, 1, 2, 1]
    assert torch.get_num_threads() == 2


def test_long_steps_are_timed_once() -> None:
    now, steps = [0.0], list[int]()

    def step() -> None:
        steps.append(torch.get_num_threads())
        now[0] += 60

    assert seconds_by_threads(step, (2, 1), clock=lambda: now[0]) == {2: 60, 1: 60}
    assert steps == [2, 1]


@pytest.mark.parametrize(("one", "advised"), [(0.01, True), (0.09, False)])
def test_doctor_says_whether_one_thread_is_faster(one: float, advised: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "use_threads", lambda count: None)
    torch.set_num_threads(1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(doctor, "seconds_by_threads", lambda step, counts: {counts[0]: 0.05, 1: one})
    finding = doctor.threads()
    assert finding.present is not advised
    assert ("try --threads 1" in finding.detail) is advised
    assert finding.detail.startswith("2")
