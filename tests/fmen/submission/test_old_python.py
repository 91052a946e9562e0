"""A package runs on the challenge's machines: Python 3.8 and torch 1.12, or newer.

``FMEN_OLD_PYTHON`` names an interpreter to try a package with. To make one::

    python3.9 -m venv old && old/bin/pip install --no-deps torch==1.12.1 typing_extensions 'numpy<2' \
        'opencv-python-headless<4.12' && FMEN_OLD_PYTHON=old/bin/python pytest tests/fmen/submission/test_old_python.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fmen.submission.build import SubmissionReport
from fmen.submission.source import Origin, model_source
from fmen_core import create_model, model_names, reparameterize
from fmen_data import imresize, read_image, write_image


def vermin(*files: Path) -> subprocess.CompletedProcess[str]:
    """Look for syntax and standard library that Python 3.8 lacks."""
    pytest.importorskip("vermin")
    command = [
        sys.executable,
        "-c",
        "from vermin import main; main()",
        "--no-config-file",
        "--violations",
        "-t=3.8-",
        *map(str, files),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_scripts_of_a_package_use_nothing_newer_than_python_3_8(unpacked: Path) -> None:
    files = sorted(unpacked.rglob("*.py"))
    assert [file.name for file in files] == ["team07_fmen_s.py", "test_demo.py"]
    run = vermin(*files)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(scope="module")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model file of every network."""
    folder = tmp_path_factory.mktemp("models")
    for name in model_names():
        origin = Origin.of(reparameterize(create_model(name)))
        code = model_source(origin).code + f"\n\nnetwork = {origin.call(4)}\n".encode()
        (folder / f"{name.replace('-', '_')}.py").write_bytes(code)
    return folder


def test_no_model_file_uses_anything_newer_than_python_3_8(model_files: Path) -> None:
    run = vermin(*sorted(model_files.iterdir()))
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_model_file_runs_on_an_old_interpreter(model_files: Path) -> None:
    python = os.environ.get("FMEN_OLD_PYTHON")
    if python is None:
        pytest.skip("FMEN_OLD_PYTHON names no interpreter with torch 1.12")
    program = (
        "import importlib, sys, torch\n"
        f"sys.path.insert(0, {str(model_files)!r})\n"
        "for name in sys.argv[1:]:\n"
        "    out = importlib.import_module(name).network.eval()(torch.zeros(1, 3, 16, 17))\n"
        "    assert out.shape == (1, 3, 64, 68), name\n"
    )
    subprocess.run([python, "-I", "-c", program, *(file.stem for file in sorted(model_files.glob("*.py")))], check=True)


@pytest.mark.parametrize("line", ["zip((), (), strict=True)", "'a'.removeprefix('a')", "match 1:\n    case _: pass"])
def test_a_line_that_needs_a_newer_python_would_be_noticed(line: str, unpacked: Path, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text((unpacked / "models/team07_fmen_s.py").read_text() + f"\n{line}\n")
    run = vermin(tmp_path / "model.py")
    assert run.returncode == 1 and "Target versions not met" in run.stdout, run.stderr


def test_a_package_gives_its_declared_psnr_on_an_old_interpreter(
    unpacked: Path, report: SubmissionReport, photos: Path, tmp_path: Path
) -> None:
    python = os.environ.get("FMEN_OLD_PYTHON")
    if python is None:
        pytest.skip("FMEN_OLD_PYTHON names no interpreter with torch 1.12")
    for file in photos.iterdir():
        hr = read_image(file)
        hr = hr[: hr.shape[0] // 4 * 4, : hr.shape[1] // 4 * 4]
        write_image(tmp_path / "HR" / file.name, hr)
        write_image(tmp_path / "LR_bicubic/X4" / f"{file.stem}x4.png", imresize(hr, 0.25))
    script = unpacked / "test_demo.py"
    subprocess.run([python, "-I", script, "--data_dir", tmp_path, "--save_dir", tmp_path], check=True)
    (results,) = json.loads((tmp_path / "results.json").read_text()).values()
    assert results["valid_ave_psnr"] == pytest.approx(report.psnr, abs=1e-3)
