"""Which package may import which, which part of the application may import which, and what a model file may import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = Path(__file__).resolve().parents[1] / "packages"
LIBRARIES = ("fmen_core", "fmen_data", "fmen_eval")
APPLICATION = PACKAGES / "fmen/src/fmen"

LAYERS = (
    ("__main__",),
    ("cli",),
    ("doctor", "report"),
    ("pruning", "reproduction"),
    ("benchmark", "spectrum", "validation"),
    ("export", "integrations", "submission", "training", "upscaling"),
    ("sources",),
    ("charts", "outputs", "schema_faults"),
    ("errors", "json_file", "threads", "yaml_file"),
)
"""The parts of the application from top to bottom. Each imports parts of lower layers only."""


def imported_modules(file: Path) -> set[str]:
    """The dotted names of the modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def imported_packages(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imported_modules(file)}


def part_of(file: Path) -> str:
    """The part of the application that a file belongs to."""
    return file.relative_to(APPLICATION).parts[0].removesuffix(".py")


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_libraries_import_neither_one_another_nor_the_application(library: str) -> None:
    files = list((PACKAGES / library / "src").rglob("*.py"))
    assert files
    for file in files:
        others = imported_packages(file) & ({*LIBRARIES, "fmen"} - {library})
        assert not others, f"{file} imports {others}"


def test_every_part_of_the_application_has_a_layer() -> None:
    parts = {part_of(file) for file in APPLICATION.rglob("*.py")} - {"__init__"}
    assert parts == {part for layer in LAYERS for part in layer}


@pytest.mark.parametrize("file", sorted(APPLICATION.rglob("*.py")), ids=lambda file: str(file.relative_to(APPLICATION)))
def test_the_application_imports_downwards_only(file: Path) -> None:
    part = part_of(file)
    layer = next((index for index, names in enumerate(LAYERS) if part in names), len(LAYERS))
    below = {name for names in LAYERS[layer + 1 :] for name in names}
    used = {name.split(".")[1] for name in imported_modules(file) if name.startswith("fmen.")} - {part, "__version__"}
    assert used <= below, f"{file} imports {used - below}"


@pytest.mark.parametrize("library", LIBRARIES)
def test_each_library_works_where_the_others_are_not_installed(library: str) -> None:
    others = [name for name in (*LIBRARIES, "fmen") if name != library]
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({others}))\n"
        f"import pkgutil, importlib, {library}\n"
        f"for module in pkgutil.walk_packages({library}.__path__, '{library}.'): importlib.import_module(module.name)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_model_file_of_a_submission_imports_torch_alone() -> None:
    standard = set(sys.stdlib_module_names)
    assert imported_packages(PACKAGES / "fmen_core/src/fmen_core/fmen_deploy.py") - standard == {"torch"}
