"""The rules of the house: which package may import which, and what a submission's model file may import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = Path(__file__).resolve().parents[1] / "packages"
LIBRARIES = ("fmen_core", "fmen_data", "fmen_eval")


def imports(file: Path) -> set[str]:
    """The top-level names that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_libraries_import_neither_one_another_nor_the_application(library: str) -> None:
    files = list((PACKAGES / library / "src").rglob("*.py"))
    assert files
    for file in files:
        strangers = imports(file) & ({*LIBRARIES, "fmen"} - {library})
        assert not strangers, f"{file} imports {strangers}"


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
    assert imports(PACKAGES / "fmen_core/src/fmen_core/deploy.py") - standard == {"torch"}
