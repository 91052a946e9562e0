"""The faults that ``tools/mutants.py`` puts into a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]

SOURCE = '''"""A docstring with 3 < 4."""

def f(x: Literal[7], *, strict: bool = True) -> int:
    """Another one: 1 + 2."""
    if not strict and x < 3:
        return x // 2
    return x in (x, "4 + 4")
'''


@pytest.fixture
def mutants(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("mutants")


def test_every_operator_number_and_truth_value_outside_of_text_and_annotations_is_a_fault(
    mutants: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "f.py"
    file.write_text(SOURCE)
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    found = {(m.line, m.before, m.after) for m in mutants.mutants_of(file)}
    assert found == {
        (3, "True", "False"),
        (5, "not ", ""),
        (5, "and", "or"),
        (5, "<", "<="),
        (5, "3", "4"),
        (6, "//", "/"),
        (6, "2", "3"),
        (7, "in", "not in"),
    }


def test_a_fault_changes_exactly_its_token(
    mutants: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "f.py"
    file.write_text(SOURCE)
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    fault = next(m for m in mutants.mutants_of(file) if m.before == "<")
    changed = SOURCE.encode()[: fault.start] + fault.after.encode() + SOURCE.encode()[fault.end :]
    assert changed.decode() == SOURCE.replace("x < 3", "x <= 3")


def test_every_named_fault_is_in_the_sources_once(mutants: ModuleType) -> None:
    for file, before, after in mutants.NAMED:
        source = (ROOT / file).read_text()
        assert source.count(before) == 1, (file, before)
        compile(source.replace(before, after), file, "exec")
    assert len(mutants.named_mutants()) == len(mutants.NAMED)


def test_a_fault_is_listed_with_the_test_that_notices_it(mutants: ModuleType) -> None:
    fault = mutants.Mutant("f.py", 3, "not ", "", 0, 4, "if not x:", "tests/test_f.py::test_f")
    assert str(fault) == "f.py:3: not  -> nothing in: if not x: => tests/test_f.py::test_f"
    assert str(dataclasses.replace(fault, killed_by="")).endswith("=> SURVIVED")
