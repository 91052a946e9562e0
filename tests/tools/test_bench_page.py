"""The page of measured speed, from invented results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import pytest

Load = Callable[[str], ModuleType]

PAGE = """# Speed

Prose that stays.

<!-- table:targets -->
old table
<!-- end -->

<!-- table:targets-gpu -->
<!-- end -->

<!-- table:loader -->
<!-- end -->

<!-- table:forward -->
old forward
<!-- end -->

<!-- table:machines -->
<!-- end -->
"""


@pytest.fixture
def folder(bench: Load, tmp_path: Path) -> Path:
    """A page, and the results of a loader and of a start."""
    measure = bench("measure")
    loader = measure.Report("loader")
    sides = ("ours", "theirs")
    loader.compare("pairs | a", "PNG", "pairs/s", [{"ours": n, "theirs": 2} for n in (100, 120, 110)], sides, 50)
    loader.compare("memory", "theirs", "bytes", [{"ours": 2**20, "theirs": 2**22}] * 3, sides, 0.2, "at most")
    loader.checks["equal pairs"] = 1280
    loader.facts["bounds"] = [{"operation": "copy", "sentence": "Copying is bound by memory."}]
    loader.curve("Rate by images", "images", "pairs/s", {"ours": [(100, 2e4), (100_000, 1e4)], "h5py": [(100, 3e3)]})
    loader.write(tmp_path / "results/loader.json")
    startup = measure.Report("startup")
    startup.compare("help", "torch", "s", [{"ours": 0.1, "theirs": 2.0}], sides, 0.25, "at most")
    startup.write(tmp_path / "results/startup.json")
    (tmp_path / "performance.md").write_text(PAGE)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/speed-old-1.png").write_bytes(b"")
    (tmp_path / "images/networks.png").write_bytes(b"")
    return tmp_path


def test_tables_stand_between_their_marks_and_prose_stays(bench: Load, folder: Path) -> None:
    unplaced = bench("page").update(folder / "performance.md", folder / "results")
    text = (folder / "performance.md").read_text()
    assert unplaced == ["startup"]
    assert "Prose that stays." in text and "old table" not in text and "old forward" not in text
    assert "| pairs \\| a | PNG | 110 pairs/s | 2 pairs/s | 55.0x | 50.0–60.0 | ≥ 50x | met |" in text
    assert "| memory | theirs | 1.0 MiB | 4.0 MiB | 0.250 | 0.250–0.250 | ≤ 0.2 | **missed** |" in text
    assert "| help | torch | 100 ms | 2 s | 0.050 |" in text
    assert "- equal pairs: 1,280" in text and "1. Copying is bound by memory." in text
    assert text.count("Not measured yet.") == 2  # the GPU and forward


def test_writing_a_page_twice_changes_nothing(bench: Load, folder: Path) -> None:
    page = bench("page")
    page.update(folder / "performance.md", folder / "results")
    once = (folder / "performance.md").read_text()
    page.update(folder / "performance.md", folder / "results")
    assert (folder / "performance.md").read_text() == once


def test_plots_are_drawn_anew_and_others_left_alone(bench: Load, folder: Path) -> None:
    bench("page").update(folder / "performance.md", folder / "results")
    assert sorted(file.name for file in (folder / "images").iterdir()) == ["networks.png", "speed-loader-1.png"]
    image: Any = cv2.imread(str(folder / "images/speed-loader-1.png"))
    assert image.shape[1] == 1400 and image.min() < 100
    assert "![Rate by images](images/speed-loader-1.png)" in (folder / "performance.md").read_text()


def test_every_result_in_the_tree_has_its_place_on_the_page(bench: Load) -> None:
    page = bench("page")
    places = {match[2] for match in page.BLOCK.finditer(page.PAGE.read_text(encoding="utf-8"))}
    assert set(page.read_reports(page.RESULTS)) <= places
