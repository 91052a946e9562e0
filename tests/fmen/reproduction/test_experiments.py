"""``fmen reproduce``: rows, stored results and the page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fmen.cli.main import app
from fmen.errors import UserError
from fmen.reproduction import experiments
from fmen.reproduction.experiments import EXPERIMENTS, read_result
from fmen.reproduction.result import Experiment, Options, Result, Row

ROW = Row("FMEN x2", "parameters", 748.656, "K", 0, 748, "a paper", seconds=0.25)


def fmen(*arguments: str | Path, status: int = 0) -> str:
    """Run ``fmen reproduce``, check its exit status, and return what it wrote."""
    result = CliRunner().invoke(app, ["reproduce", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result.output


@pytest.fixture
def two_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """An experiment ``count`` that measures a time with ``--runs`` alone, in place of all others."""

    def run(options: Options) -> Result:
        time = [replace(ROW, quantity="time", unit="ms", ours=float(options.runs), published=None)]
        images = {"A line": "line.svg"} if options.out else {}
        rows = [ROW, *(time if options.runs else [])]
        findings = {"time": f"{options.runs} ms is fast."} if options.runs else {}
        return Result(rows, ["All is equal."], "1 thread" if time else "", images, findings)

    monkeypatch.setattr(experiments, "EXPERIMENTS", {"count": Experiment("count", "Counts", run)})


@pytest.mark.parametrize(
    ("ours", "digits", "published", "difference"),
    [
        (748.656, 0, 748, 0),
        (748.656, 0, 749, 0),
        (748.656, 0, 747, 2),
        (44.17, 1, 44.2, 0),
        (44.17, 1, 44.0, 0.2),
        (-0.36, 1, -0.3, 0),
        (12.0, 0, None, None),
    ],
)
def test_a_figure_equals_the_published_one_if_it_rounds_or_truncates_to_it(
    ours: float, digits: int, published: float | None, difference: float | None
) -> None:
    assert Row("a", "b", ours, "", digits, published).difference == difference


def test_a_row_shows_published_ours_difference_seconds_and_command() -> None:
    cells = replace(ROW, ours=1750.2, published=748, command="fmen reproduce count").cells()
    assert cells == ["FMEN x2", "parameters", "748K", "1,750.2K", "+1,002", "0.25", "`fmen reproduce count`"]
    assert replace(ROW, published=None).cells()[2:5] == ["–", "749K", "–"]


def test_results_are_stored_with_their_command_and_read_again(two_rows: None, tmp_path: Path) -> None:
    text = fmen("count", "--out", tmp_path)
    assert "| FMEN x2 | parameters | 748K | 748.7K | 0 | 0.25 | `fmen reproduce count` |" in text
    stored = json.loads((tmp_path / "count.json").read_text())
    assert stored["rows"][0].items() >= {"ours": 748.656, "difference": 0, "command": "fmen reproduce count"}.items()
    again = read_result(tmp_path / "count.json")
    assert again.rows == [replace(ROW, command="fmen reproduce count")] and again.images == {"A line": "line.svg"}


def test_a_run_without_times_leaves_the_times_of_an_earlier_run(two_rows: None, tmp_path: Path) -> None:
    fmen("count", "--out", tmp_path, "--runs", "7")
    fmen("count", "--out", tmp_path)
    stored = read_result(tmp_path / "count.json")
    assert [(row.quantity, row.command) for row in stored.rows] == [
        ("parameters", "fmen reproduce count"),
        ("time", "fmen reproduce count --runs 7"),
    ]
    assert "All is equal.\n\n7 ms is fast." in stored.markdown()
    fmen("count", "--out", tmp_path, "--runs", "9")
    stored = read_result(tmp_path / "count.json")
    assert [row.ours for row in stored.rows] == [748.656, 9]
    assert stored.findings == {"time": "9 ms is fast."}


def test_the_page_has_a_section_for_each_result_with_its_images(two_rows: None, tmp_path: Path) -> None:
    text = fmen("all", "--out", tmp_path / "results", "--page", tmp_path / "docs/page.md")
    assert f"wrote {tmp_path / 'docs/page.md'}" in text
    page = (tmp_path / "docs/page.md").read_text()
    for part in ("## Counts\n", "| FMEN x2 |", "All is equal.", "![A line](../results/line.svg)", "a paper"):
        assert part in page
    (tmp_path / "docs/page.md").unlink()
    fmen("--out", tmp_path / "results", "--page", tmp_path / "docs/page.md")
    assert (tmp_path / "docs/page.md").read_text() == page


def test_without_a_name_the_names_are_listed() -> None:
    text = fmen()
    assert [line.split()[0] for line in text.splitlines()] == list(EXPERIMENTS)


def test_wrong_input_ends_with_one_line(two_rows: None, tmp_path: Path) -> None:
    assert fmen("table9", status=2) == "error: no experiment is called 'table9'; choose one of count, or all\n"
    assert "--page writes the results in --out" in fmen("--page", "page.md", status=2)
    assert "no results; make them with" in fmen("--out", tmp_path, "--page", tmp_path / "page.md", status=2)
    (tmp_path / "count.json").write_text('{"rows": 3}')
    assert "count.json: not a result of fmen reproduce" in fmen("count", "--out", tmp_path, status=2)


@pytest.mark.parametrize("content", ["", "[]", '{"rows": [{"a": 1}], "remarks": [], "conditions": "", "images": {}}'])
def test_a_file_with_something_else_is_no_result(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match="not a result"):
        read_result(tmp_path / "x.json")


def test_names_are_those_of_the_table() -> None:
    assert all(name == experiment.name for name, experiment in EXPERIMENTS.items())
