"""``fmen doctor`` shows what is present, and how to get what is missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fmen import doctor
from fmen.cli.main import app
from fmen_core import create_model, pretrained, save

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FMEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pretrained, "BUNDLED", tmp_path / "bundled")
    return tmp_path


def report() -> dict[str, str]:
    """The lines of the report by name, each beginning with ``ok`` or ``--``."""
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if line.startswith("  ")]
    names = [finding.name for _, findings in doctor.examine() for finding in findings]
    return {name: " ".join(line.replace(name, "", 1).split()) for name, line in zip(names, lines, strict=True)}


@pytest.mark.usefixtures("work")
def test_an_empty_folder_gets_advice_for_everything_missing() -> None:
    lines = report()
    assert lines["torch"] == f"ok {torch.__version__}"
    assert lines["DIV2K train"].startswith("-- not in data/") and "fmen data download" in lines["DIV2K train"]
    assert lines["in the package"] == "-- none; train with: fmen train, or use published ones: fmen weights list"
    assert lines["published"].startswith("-- none downloaded; see: fmen weights list")
    assert lines["newest run"] == "-- none under runs/; make one with: fmen train"
    assert lines["sample"] == "ok 11 photographs, for --data sample"
    assert lines["cache"].startswith("ok") and "0.0 MB used" in lines["cache"]


def test_every_dependency_of_the_packages_is_looked_for() -> None:
    wanted = set()
    for file in ROOT.glob("packages/*/pyproject.toml"):
        text = file.read_text(encoding="utf-8")
        lists = re.findall(r"^(?:dependencies|sample) = \[(.*?)\]$", text, re.MULTILINE | re.DOTALL)
        wanted |= {name for content in lists for name in re.findall(r'"([\w-]+)', content)} - {"3"}
    assert set(doctor.REQUIRED) == wanted - {"torch", "setuptools", *doctor.PROJECT_PACKAGES}


def test_data_weights_and_runs_are_found(work: Path) -> None:
    (work / "data" / "DIV2K" / "DIV2K_valid_HR").mkdir(parents=True)
    (work / "bundled").mkdir()
    (work / "runs" / "r").mkdir(parents=True)
    for place in ("bundled/fmen-s_x4", "runs/r/best"):
        save(create_model("fmen-s"), work / f"{place}.safetensors")
    (work / "cache" / "weights").mkdir(parents=True)
    (work / "cache" / "weights" / "rfdn.pth").touch()
    lines = report()
    assert lines["DIV2K val"].startswith("ok in data/")
    assert lines["DIV2K train"].startswith("--")
    assert lines["in the package"] == "ok fmen-s_x4"
    assert lines["published"] == "ok rfdn"
    assert lines["newest run"] == "ok runs/r/best.safetensors"


def test_missing_packages_are_named_with_their_installation(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, absent = doctor.version, ("tensorboard", "h5py", "fmen-core")
    monkeypatch.setattr(doctor, "version", lambda name: None if name in absent else real(name))
    lines = report()
    assert lines["fmen-core"] == "-- missing: pip install fmen-core"
    assert lines["h5py"] == "-- missing: pip install h5py"
    assert "tensorboard" in lines["extras"] and "pip install 'fmen[" in lines["extras"]


def test_gpus_are_listed_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (2.5e9, 8e9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "A GPU")
    *_, gpu = doctor.devices()
    assert gpu == doctor.Finding(True, "cuda:0", "A GPU, 2.5 of 8.0 GB free")


def test_backends_are_listed_with_the_installation_of_missing_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"openvino": "2026.4", "onnx": "1.23", "onnxscript": "0.7", "onnxruntime": None}
    monkeypatch.setattr(doctor, "version", versions.__getitem__)
    missing = "torch, openvino; not installed: onnxruntime: pip install 'fmen[onnxruntime]'"
    assert doctor.backends() == doctor.Finding(True, "backends", missing)
    versions["onnxruntime"] = "1.31"
    assert doctor.backends().detail == "torch, openvino, onnxruntime"
