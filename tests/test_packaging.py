"""The wheels: what they contain, what their metadata says, and that they work from an empty folder."""

from __future__ import annotations

import email
import importlib
import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("fmen_core", "fmen_data", "fmen_eval", "fmen")
BUILD_OUTPUTS = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist", ".*_cache")


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of each package, built from a copy of the sources with the setuptools that is installed."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    for name in PACKAGES:
        shutil.copytree(ROOT / "packages" / name, source / name, ignore=BUILD_OUTPUTS)
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    run(*pip, "--wheel-dir", out, *(source / name for name in PACKAGES), cwd=source)
    return {name: next(out.glob(f"{name}-*.whl")) for name in PACKAGES}


@pytest.fixture(scope="session")
def installed(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all wheels unpacked by pip and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile")
    run(*pip, "--target", target, *wheels.values(), cwd=target)
    return target


def files(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def metadata(wheel: Path) -> Message:
    (text,) = (data for name, data in files(wheel).items() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(text)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_wheel_contains_every_file_of_its_package_and_no_other(wheels: dict[str, Path], name: str) -> None:
    source = ROOT / "packages" / name / "src"
    expected = {
        file.relative_to(source).as_posix()
        for file in (source / name).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    content = {file for file in files(wheels[name]) if ".dist-info/" not in file}
    assert content == expected
    assert f"{name}/py.typed" in content


def test_data_files_are_in_the_wheels(wheels: dict[str, Path]) -> None:
    application, core = files(wheels["fmen"]), files(wheels["fmen_core"])
    for recipe in ("paper", "fast", "cpu", "quick", "real", "staged", "fimdn"):
        assert f"fmen/training/recipes/{recipe}.yaml" in application
    for file in ("submission/package/test_demo.py.in", "submission/package/team.yaml", "report/assets/report.html"):
        assert f"fmen/{file}" in application
    weights = [file for file in core if file.endswith((".safetensors", ".xml"))]
    assert {"fmen_core/weights/fmen-s_x4.safetensors", "fmen_core/weights/fmen-s_x4_int8.xml"} <= set(weights)
    for file in weights:
        card = core[file.rpartition(".")[0] + ".md"].decode()
        assert "## Terms" in card and "BSDS500" in card, file


@pytest.mark.parametrize("name", PACKAGES)
def test_the_licence_and_the_notice_are_in_every_wheel(wheels: dict[str, Path], name: str) -> None:
    content = {Path(file).name: data for file, data in files(wheels[name]).items() if "/licenses/" in file}
    assert content == {"LICENSE": (ROOT / "LICENSE").read_bytes(), "NOTICE": (ROOT / "NOTICE").read_bytes()}


def test_the_notice_names_every_network(wheels: dict[str, Path]) -> None:
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    entries = set(re.findall(r"[\w-]+", " ".join(re.findall(r"^([a-z][\w, -]*)$", notice, re.MULTILINE))))
    core = importlib.import_module("fmen_core")
    assert set(core.model_names()) <= entries


@pytest.mark.parametrize("name", PACKAGES)
def test_metadata_says_version_licence_authors_and_pythons(wheels: dict[str, Path], name: str) -> None:
    fields = metadata(wheels[name])
    assert fields["Version"] == importlib.import_module(name).__version__
    assert fields["License-Expression"] == "Apache-2.0"
    assert fields["Author"] and fields["Keywords"] and fields["Summary"]
    assert fields["Requires-Python"] == ">=3.10"
    classifiers = fields.get_all("Classifier", [])
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 15)} <= set(classifiers)
    assert "Typing :: Typed" in classifiers
    assert all(re.fullmatch(r".+, https://\S+", url) for url in fields.get_all("Project-URL", ["none"]))


def test_the_application_requires_the_libraries_of_this_version(wheels: dict[str, Path]) -> None:
    lines = metadata(wheels["fmen"]).get_all("Requires-Dist", [])
    required = {re.split(r"[\[=]", line)[0]: line.rpartition("==")[2] for line in lines if line.startswith("fmen")}
    libraries = PACKAGES[:3]
    assert required == {name.replace("_", "-"): importlib.import_module(name).__version__ for name in libraries}


def test_every_requirement_is_in_the_lowest_constraints_and_in_the_exact_ones(wheels: dict[str, Path]) -> None:
    lowest = pins(ROOT / "requirements-lowest.txt")  # whose first lines name the versions of the other extras
    exact = pins(ROOT / "constraints.txt")
    for wheel in wheels.values():
        lines = metadata(wheel).get_all("Requires-Dist", [])
        for line in (line for line in lines if not re.search(r'extra == "(onnx|onnxruntime|openvino)"', line)):
            requirement = re.match(r"([\w-]+)(?:\[\w+\])?(?:<[\w.]+,)?>=([\w.]+)", line)
            if requirement is None:
                assert line.startswith("fmen"), line
                continue
            package, bound = requirement[1].lower(), requirement[2]
            assert matches(bound, lowest[package]), f"{line}: requirements-lowest.txt has {lowest[package]}"
            assert package in exact or "extra ==" in line, line


def pins(file: Path) -> dict[str, str]:
    """The versions that a file of ``name==version`` lines gives, by lower-case name."""
    return {name.lower(): version for name, version in re.findall(r"(?m)^([\w-]+)==([\w.]+)", file.read_text())}


def matches(bound: str, version: str) -> bool:
    """Whether a version belongs to the series that a bound names: they agree in every part that the bound has."""
    return f"{version}.".startswith(f"{bound}.")


@pytest.mark.parametrize("name", PACKAGES)
def test_no_file_of_a_wheel_names_a_folder_of_this_machine(wheels: dict[str, Path], name: str) -> None:
    machine = {str(ROOT), str(wheels[name].parent), str(Path.home())} - {"/"}
    for file, data in files(wheels[name]).items():
        assert not [folder for folder in machine if f"{folder}/".encode() in data], file


def test_installed_wheels_without_the_sources_upscale_an_image_and_read_recipes(installed: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(installed)!r})
import numpy as np
import fmen, fmen_core, fmen_data, fmen_eval
from fmen.training.recipe import load_recipe, recipe_names
lr = np.zeros((8, 9, 3), np.uint8)
sr = fmen_core.Upscaler(fmen_core.fmen_s(pretrained=True))(lr)
assert all(package.__file__.startswith(sys.path[0]) for package in (fmen, fmen_core, fmen_data, fmen_eval))
print(sr.shape, fmen_data.imresize(lr, 2).shape, fmen_eval.psnr(sr, sr) > 99, len(recipe_names()))
"""
    recipes = len(list((ROOT / "packages/fmen/src/fmen/training/recipes").glob("*.yaml")))
    assert run(sys.executable, "-I", "-c", code, cwd=installed).strip() == f"(32, 36, 3) (16, 18, 3) True {recipes}"
