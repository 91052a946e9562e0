"""The rank correlation of runtime with what is counted of networks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fmen.charts.runtime import compact, draw_runtimes
from fmen.cli.main import app
from fmen.reproduction.correlation import ranks, spearman
from fmen.reproduction.experiments import read_result


def fmen(*arguments: str | Path, status: int = 0) -> str:
    """Run ``fmen reproduce correlation``, check its exit status, and return what it wrote."""
    result = CliRunner().invoke(app, ["reproduce", "correlation", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result.output


def write_bench(file: Path, rows: list[tuple[float, float, float, float]]) -> Path:
    """Write ``(params, flops, activations, runtime)`` of networks as ``fmen bench --json`` does."""
    keys = ("params", "flops", "activations", "runtime_ms")
    named = [
        {"model": f"n{index}", "conditions": "a CPU", "convs": 1, "peak_memory_bytes": 1} for index in range(len(rows))
    ]
    content = [{**name, **dict(zip(keys, row, strict=True))} for name, row in zip(named, rows, strict=True)]
    file.write_text(json.dumps(content))
    return file


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    assert list(ranks([30, 10, 20, 20])) == [4, 1, 2.5, 2.5]
    assert list(ranks([5, 5, 5])) == [2, 2, 2]


def test_spearman_is_that_of_published_examples() -> None:
    # IQ and hours of television of ten people: 1 - 6 * 194 / (10 * 99) = -29 / 165, without ties.
    iq = [106, 100, 86, 101, 99, 103, 97, 113, 112, 110]
    hours = [7, 27, 2, 50, 28, 29, 20, 12, 6, 17]
    assert spearman(iq, hours) == pytest.approx(-29 / 165)
    # Ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4: 4.5 / sqrt(4.5 * 5).
    assert spearman([1, 2, 2, 3], [1, 9, 4, 25]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_spearman_depends_on_the_order_alone() -> None:
    values = [0.1, 5.0, 2.0, 300.0]
    assert spearman(values, [math.exp(value / 50) for value in values]) == pytest.approx(1)
    assert spearman(values, [-value for value in values]) == pytest.approx(-1)
    assert math.isnan(spearman(values, [1, 1, 1, 1]))


def test_each_file_has_its_coefficients_a_plot_and_a_verdict(tmp_path: Path) -> None:
    rows = [(4, 1, 1, 1.0), (3, 3, 2, 2.0), (2, 2, 3, 3.0), (1, 4, 4, 4.0)]
    best = write_bench(tmp_path / "activations.json", rows)
    swapped = write_bench(tmp_path / "params.json", [(d, b, a, d) for a, b, _, d in rows])
    output = fmen("--bench", best, "--bench", swapped, "--out", tmp_path / "out")
    result = read_result(tmp_path / "out" / "correlation.json")
    assert [round(row.ours, 9) for row in result.rows] == [-1, 0.8, 1, 1, 0.8, -1]
    assert result.rows[3].command == f"fmen reproduce correlation --bench {swapped}"
    first, second = result.findings.values()
    assert first.startswith("activations: among 4 networks, activations have the highest rank correlation")
    assert "in 4 of 4 cases. This agrees" in first and first in output
    assert second.startswith("params: among 4 networks, parameters have the highest rank correlation")
    assert "This does not agree" in second and second in output
    assert all((tmp_path / "out" / file).stat().st_size for file in result.images.values())


def test_without_results_or_runs_and_with_other_files_there_is_one_line(tmp_path: Path) -> None:
    assert "Name results with --bench FILE.json, or measure the networks with --runs 10." in fmen("--out", tmp_path)
    assert not list(tmp_path.glob("*.json"))
    other = tmp_path / "other.json"
    for content in ("{", "{}", "[1]", '[{"model": "a"}]'):
        other.write_text(content)
        assert f"{other}: " in fmen("--bench", other, status=2)
    assert "2 networks; a correlation needs at least three" in fmen(
        "--bench", write_bench(other, [(1, 1, 1, 1), (2, 2, 2, 2)]), status=2
    )


def test_the_best_quantity_is_emphasized_and_counts_are_short() -> None:
    figure = draw_runtimes(
        [1.0, 2.0], {"FLOPs": [1e9, 2e9], "activations": [1e6, 3e6]}, {"FLOPs": 0.5, "activations": 1}
    )
    figure.draw_without_rendering()
    colors = [axes.collections[0].get_facecolor()[0].tolist() for axes in figure.axes]
    assert colors[0] != colors[1]
    assert [axes.get_title("left") for axes in figure.axes] == ["FLOPs: 0.500", "activations: 1.000"]
    assert [compact(value) for value in (7, 100e3, 2e7, 3e9)] == ["7", "100K", "20M", "3G"]
