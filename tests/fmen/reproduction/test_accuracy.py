"""Published PSNR and SSIM beside those of weights at hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from fmen.reproduction import accuracy
from fmen.reproduction.result import Options, Result, Row, merged


def test_published_figures_are_listed_without_ours() -> None:
    result = accuracy.run(Options())
    assert len(result.rows) == 14 * 2 * 3 * 2 and all(
        math.isnan(row.ours) and row.difference is None for row in result.rows
    )
    assert result.rows[0].cells()[:5] == ["SRCNN x2", "PSNR on Set5", "36.66 dB", "–", "–"]
    rows = {row.key: row.published for row in result.rows}
    assert rows["FMEN x4", "PSNR on Set5"] == 32.24 and rows["FMEN x4", "SSIM on Set14"] == 0.7839


def test_weights_are_measured_under_the_papers_protocol(reference: Path) -> None:
    options = Options(
        weights=(str(reference / "weights/IMDN_x4.pth"),), val_data=str(reference / "data/Set5"), device="cpu"
    )
    rows = {row.key: row for row in accuracy.run(options).rows}
    psnr, ssim = rows["IMDN x4", "PSNR on Set5"], rows["IMDN x4", "SSIM on Set5"]
    assert psnr.command == "fmen reproduce accuracy --weights IMDN_x4.pth --val-data Set5"
    assert psnr.ours == pytest.approx(32.2096, abs=1e-3) and (psnr.difference, ssim.difference) == (0, 0)


def test_a_figure_that_is_not_measured_survives_the_file() -> None:
    result = accuracy.run(Options())
    content = json.loads(json.dumps(result.to_dict()).replace("NaN", "null"))
    again = Result.from_dict(content)
    assert math.isnan(again.rows[0].ours) and again.rows[0].key == result.rows[0].key


def test_a_run_without_weights_leaves_what_an_earlier_one_measured() -> None:
    def result(*ours: float) -> Result:
        return Result([Row(f"network {index}", "PSNR", value) for index, value in enumerate(ours)])

    rows = merged(result(math.nan, 31.0), result(30.0, 30.5, 29.0)).rows
    assert [row.ours for row in rows] == [30.0, 31.0, 29.0]


def test_a_published_figure_that_was_corrected_replaces_that_of_the_file() -> None:
    old = Row("IMDN x4", "PSNR", 32.2, published=32.0, source="a secondary source", command="fmen reproduce accuracy")
    (row,) = merged(Result([Row("IMDN x4", "PSNR", math.nan, published=32.21, source="the paper")]), Result([old])).rows
    assert (row.ours, row.published, row.source, row.command) == (32.2, 32.21, "the paper", old.command)
