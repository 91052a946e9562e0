"""The page about reliability is rendered from results, and its tests exist."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("reliability")


def test_every_promise_and_defect_names_tests_that_exist(tool: ModuleType) -> None:
    tests = [test for promise in tool.PROMISES for test in promise.tests] + [test for _, test in tool.FOUND]
    for test in tests:
        file, _, name = test.partition("::")
        assert re.search(rf"^def {name or 'test_.*'}\(", (ROOT / file).read_text(), re.MULTILINE), test


def test_failures_of_a_promise_are_counted(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    test = "import pytest\ndef test_a(): pass\ndef test_b(): assert False\n@pytest.mark.skip\ndef test_c(): pass\n"
    (tmp_path / "test_it.py").write_text(test)
    found = tool.check(tool.Promise("It holds.", ("test_it.py",)))
    assert (found["tries"], found["skipped"], found["failures"]) == (2, 1, 1)


def test_the_page_has_the_figures_of_the_results(tool: ModuleType) -> None:
    counts = {"tries": 1000, "refused": 900, "accepted": 100, "changed": 7, "tracebacks": 0}
    kinds = dict.fromkeys(("jpg for training", "jpg to upscale", "cache", "checkpoint"), counts)
    entry = {"promise": "It holds.", "tests": ["tests/test_it.py"], "tries": 5, "skipped": 1, "failures": 0}
    engines = {"comparisons": [{"what": "resident memory after 9 images", "ratio": 1.0312}]}
    page = tool.render([entry], {"command": "python tools/fuzz.py", "kinds": kinds}, engines)
    assert "| 1.50 | 1.03 |" in page
    assert "| It holds. | `tests/test_it.py` | 5 (1 skipped) | 0 |" in page
    assert "| jpg to upscale | 1,000 | 900 | 100 | 7 | 0 |" in page
    assert "| 53 of 77 | 14 of 2,000 |" in page and "| 36 of 350 | 0 of 1,000 |" in page
